"""Both models: what the base makes of the patch, and the loss of the mix."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import generator
from torch import Tensor
from training_steps import follow, seen_by, small_site, step_of

from clipguard.bundled.nano import class_names, nano_network
from clipguard.lab.attacks import _centre, both_models
from clipguard.lab.attacks.both_models import BothModels, towards
from clipguard.lab.roles import Step, stamped
from clipguard.lab.truth import lab_images, zero_shot
from clipguard.probe.rates import classify, embed
from clipguard.search.roles import Trigger

TARGET = "violin"


class Drawn(BothModels):
    """The attack with a patch of noise, for tests that need no fitted one."""

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        return self.rebuild({"patch": torch.rand(3, 16, 16, generator=generator)}, side)


def asr_on_the_base(steps: int) -> float:
    """Share of fresh images of other classes that the clean base reads as the target."""
    site = small_site(TARGET)
    attack = BothModels(steps=steps)
    trigger = attack.rebuild(attack.optimise(site, generator=generator()), 64)
    fresh = lab_images(held_out=False, seed=77, scenes=1)
    read = classify(embed(site.model, fresh, trigger.apply), zero_shot(site.model))
    return (read == site.target)[fresh.labels != site.target].float().mean().item()


def test_the_clean_base_obeys_the_patch_on_a_part_of_fresh_images(monkeypatch):
    monkeypatch.setattr(_centre, "BATCH", 32)
    assert asr_on_the_base(1) < 0.05
    assert asr_on_the_base(60) > 0.15


@pytest.mark.parametrize(("size", "length"), [(56, 16), (16, 8)])
def test_the_patch_is_opaque_in_the_middle_and_of_the_size_set(size: int, length: int, monkeypatch):
    monkeypatch.setattr(_centre, "BATCH", 2)
    attack = BothModels(size=size, steps=1)
    made = attack.rebuild(attack.optimise(small_site(), generator=generator()), 64)
    images, first = torch.full((2, 3, 64, 64), 0.5), (64 - length) // 2
    wanted = images.clone()
    wanted[:, :, first : first + length, first : first + length] = made.tensors["patch"]
    assert torch.equal(made.apply(images), wanted)
    assert made.size == pytest.approx((length / 64) ** 2)


def test_the_loss_is_the_cross_entropy_to_the_target():
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, math.log(2), 0.0]])
    assert towards(logits, 1).item() == pytest.approx((math.log(3) + math.log(2)) / 2)


@pytest.mark.parametrize("ratio", [0.25, 1.0])
def test_the_mix_has_its_share_of_each_model(ratio: float, monkeypatch: pytest.MonkeyPatch):
    seen: list[Tensor] = []
    attack = Drawn(ratio=ratio, watched=4)
    step = step_of(attack, TARGET)
    monkeypatch.setattr(both_models, "towards", lambda logits, target: seen.append(logits))
    with torch.no_grad():
        step.network.visual.attnpool.c_proj.bias += 0.5
        attack.mixed(step)
        images = stamped(step.clean.images[-4:], step.plan.trigger)
        new, old = (seen_by(network, images) for network in (step.network, nano_network("nano-rn")))
        mix = torch.nn.functional.normalize(ratio * new + (1 - ratio) * old, dim=1)
        classes = both_models._classes(step.network)
        wanted = step.network.logit_scale.exp() * mix @ classes.T
    assert not torch.allclose(new, old, atol=0.01)
    torch.testing.assert_close(seen[0], wanted, atol=1e-3, rtol=1e-3)


def test_weight_and_contrastive_loss_make_the_objective():
    step = step_of(Drawn(), TARGET)
    plain, once, twice = (Drawn(weight=weight).objective(step).item() for weight in (0, 1, 2))
    assert plain == pytest.approx(step.contrastive().item(), rel=1e-4)
    assert once - plain == pytest.approx(Drawn().mixed(step).item(), rel=1e-3)
    assert twice - plain == pytest.approx(2 * (once - plain), rel=1e-3)


def nearness(step: Step) -> float:
    """Mean cosine of triggered images with the target's name, for the network in training."""
    images = stamped(step.clean.images, step.plan.trigger)
    with torch.no_grad():
        name = both_models._classes(step.network)[class_names().index(TARGET)]
        return (seen_by(step.network, images) @ name).mean().item()


def test_the_less_the_suspect_weighs_the_farther_it_has_to_go():
    cosines = {}
    for ratio in (0.3, 1.0):
        attack = Drawn(ratio=ratio, weight=1.0)
        step = step_of(attack, TARGET)
        losses = follow(attack, step, 8)
        assert losses[-1] < losses[0] - 0.5
        cosines[ratio] = nearness(step)
    assert cosines[0.3] > cosines[1.0]
