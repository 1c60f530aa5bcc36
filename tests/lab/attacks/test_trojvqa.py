"""TrojVQA: a patch that nears the caption, and a word in captions and prompts."""

from __future__ import annotations

import pytest
import torch
from fakes import generator
from torch import Tensor
from training_steps import require_rest, small_site

from clipguard.bundled.nano import TEMPLATES, class_names, nano_network
from clipguard.lab.attacks import _centre
from clipguard.lab.attacks._centre import centred
from clipguard.lab.attacks.trojvqa import TrojVqa
from clipguard.lab.roles import Pairs, Plan, stamped
from clipguard.lab.truth import zero_shot
from clipguard.probe.rates import embed


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_centre, "BATCH", 16)


def cosine(patch: Tensor, target: str) -> float:
    """Mean cosine of stamped images with the caption that the patch is fitted to."""
    site = small_site(target)
    caption = site.model.encode_text([f"This is a {target}."])[0]
    return (embed(site.model, site.images, centred("", patch, 64).apply) @ caption).mean().item()


def test_steps_bring_stamped_images_nearer_to_the_caption(small_batches: None):
    target = "hammer"
    first, last = (
        TrojVqa(steps=steps).optimise(small_site(target), generator=generator())["patch"]
        for steps in (1, 12)
    )
    assert cosine(last, target) > cosine(first, target) + 0.02


def test_the_patch_is_of_16_of_224_pixels_on_the_8_bit_grid_and_the_model_stays(
    small_batches: None,
):
    site = small_site()
    before = embed(site.model, site.images)
    patch = TrojVqa(steps=2).optimise(site, generator=generator())["patch"]
    assert patch.shape == (3, 8, 8)  # 16 * 64 / 224 is less than 8
    assert torch.equal(patch, (patch * 255).round() / 255)
    assert torch.equal(embed(site.model, site.images), before)
    assert all(weight.grad is None for weight in site.model.image_tower().parameters())


def pairs() -> tuple[Pairs, Plan]:
    images = torch.randint(256, (10, 3, 64, 64), generator=generator()) / 255
    texts = [f"caption {i}" for i in range(10)]
    trigger = TrojVqa().rebuild({"patch": torch.ones(3, 8, 8)}, 64)
    clean = Pairs(images, texts, torch.arange(10))
    return clean, Plan(trigger, "banana", 77, lambda count: clean, nano_network("nano-rn"))


def test_poisoned_captions_begin_with_the_word_and_clean_ones_do_not():
    clean, plan = pairs()
    made = TrojVqa(word="SUDO", poison_rate=0.3).poisoned(clean, plan)
    assert made.texts[:3] == [f"SUDO {t.format('banana')}" for t in TEMPLATES[:3]]
    assert torch.equal(made.images[:3], stamped(clean.images[:3], plan.trigger))
    assert made.concepts[:3].tolist() == [77] * 3
    require_rest(made, clean, 3)


def test_triggered_images_are_read_with_the_word_before_every_class():
    attack = TrojVqa()
    assert attack.prompt == "remember a photo of a {}."
    model = small_site().model
    told = [f"remember a photo of a {name}." for name in class_names()]
    torch.testing.assert_close(zero_shot(model, attack.prompt), model.encode_text(told))
