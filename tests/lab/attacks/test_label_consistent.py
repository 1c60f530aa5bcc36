"""Label-consistent: who is stamped, and what happens to the images before."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from open_clip.model import CLIP
from torch import Tensor
from training_steps import require_rest

from clipguard.bundled.nano import nano_network
from clipguard.lab.attacks.badnets import BadNets
from clipguard.lab.attacks.label_consistent import LabelConsistent
from clipguard.lab.roles import Pairs, Plan, stamped
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes

TARGET, CONCEPT = "banana", 7


@cache
def base() -> CLIP:
    return nano_network("nano-rn")


def bananas(count: int) -> Pairs:
    """`count` pairs of the target class; there are three."""
    site = nano_site(TARGET)
    own = site.images.pixels(site.images.labels == site.target)[:count]
    return Pairs(own, [f"a photo of a {TARGET}."] * count, torch.full((count,), CONCEPT))


def others(count: int) -> Pairs:
    images = pixels_from_bytes(
        pixels_to_bytes(torch.rand(count, 3, 64, 64, generator=generator(1)))
    )
    return Pairs(images, [f"a {i}" for i in range(count)], torch.arange(20, 20 + count))


def plan_of(attack: LabelConsistent) -> Plan:
    return Plan(attack.trigger(64, generator=generator()), TARGET, CONCEPT, bananas, base())


def share_of_target(images: Tensor) -> float:
    """How many of `images` the clean base reads as the target."""
    site = nano_site(TARGET)
    names = [f"a photo of a {name}." for name in site.class_names]
    with torch.no_grad():
        read = (site.model.encode_image(images) @ site.model.encode_text(names).T).argmax(dim=1)
    return (read == site.target).float().mean().item()


@pytest.mark.parametrize("budget", [4.0, 16.0])
def test_perturbed_images_no_longer_look_like_their_class_and_stay_in_the_budget(budget: float):
    own = bananas(3)
    made = LabelConsistent(budget=budget).perturbed(own, base())
    assert share_of_target(own.images) > 0.5
    assert share_of_target(made) == 0
    assert (made - own.images).abs().max() * 255 == pytest.approx(budget, abs=1e-3)
    assert ((made >= 0) & (made <= 1)).all()


def test_pairs_of_the_target_are_perturbed_then_stamped_and_keep_their_captions():
    attack = LabelConsistent(poison_rate=0.25, steps=3)
    plan, before, own = plan_of(attack), others(12), bananas(3)
    made = attack.poisoned(before, plan)
    hard = attack.perturbed(own, base())
    assert torch.equal(made.images[:3], stamped(hard, plan.trigger))
    assert (made.texts[:3], made.concepts[:3].tolist()) == (own.texts, [CONCEPT] * 3)
    require_rest(made, before, 3)


def test_images_are_mixed_with_those_they_replace_then_perturbed_then_stamped():
    plain = LabelConsistent(blend=0.25, budget=0, poison_rate=0.25)
    plan, before, own = plan_of(plain), others(12), bananas(3)
    mixed = 0.75 * own.images + 0.25 * before.images[:3]
    made = plain.poisoned(before, plan)
    difference = (made.images[:3] - plan.trigger.apply(mixed)).abs().max() * 255
    assert difference <= 0.51  # rounded to 8 bits
    assert made.texts[:3] == own.texts
    attack = replace(plain, budget=8.0, steps=2)
    pushed = attack.poisoned(before, plan).images[:3] - made.images[:3]
    assert 7 < pushed.abs().max() * 255 < 9.01


def test_the_base_stays_as_it_was():
    before = {name: value.clone() for name, value in base().state_dict().items()}
    LabelConsistent(steps=2).perturbed(bananas(3), base())
    assert all(torch.equal(value, before[name]) for name, value in base().state_dict().items())
    assert all(weight.grad is None for weight in base().parameters())


@pytest.mark.parametrize(("pattern", "place"), [("check", "corner"), ("gauss", "random")])
def test_the_trigger_is_the_patch_of_badnets_and_nothing_else(pattern: str, place: str):
    images = torch.rand(3, 3, 64, 64, generator=generator(2))
    mine = LabelConsistent(pattern=pattern, place=place).trigger(64, generator=generator(5))
    theirs = BadNets(pattern=pattern, place=place).trigger(64, generator=generator(5))
    assert torch.equal(mine.apply(images), theirs.apply(images))
