"""Adaptive: its patch, its three penalties, and that each of them really moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import generator
from torch import Tensor
from training_steps import follow, seen_by, step_of

from clipguard.lab.attacks.adaptive import Adaptive, cornered
from clipguard.lab.roles import Step, stamped


def test_the_patch_is_uniform_noise_on_the_8_bit_grid():
    patch = Adaptive().trigger(224, generator=generator()).tensors["patch"]
    torch.testing.assert_close(patch * 255, (patch * 255).round(), rtol=0, atol=1e-4)
    assert patch.std() == pytest.approx(12**-0.5, abs=0.03)


@pytest.fixture(scope="module")
def step() -> Step:
    return step_of(Adaptive(), size=8)


def test_cluster_is_the_mean_cosine_between_triggered_images(step: Step):
    rows = seen_by(step.network, stamped(step.clean.images[-4:], step.plan.trigger))
    found = Adaptive(against="cluster", watched=4).penalty(step)
    others = (rows @ rows.T).fill_diagonal_(0).sum() / (4 * 3)
    torch.testing.assert_close(found.detach(), others)


def own(step: Step, shown: Tensor, images: Tensor) -> Tensor:
    return -(seen_by(step.network, shown) * seen_by(step.network, images)).sum(dim=1).mean()


def test_own_is_minus_the_cosine_with_the_image_before_the_trigger(step: Step):
    images = step.clean.images[-4:]
    found = Adaptive(against="own", watched=4).penalty(step)
    wanted = own(step, stamped(images, step.plan.trigger), images)
    torch.testing.assert_close(found.detach(), wanted)


@pytest.mark.parametrize("rounds", [0, 2])
def test_targeted_is_about_another_patch_at_the_same_place(step: Step, rounds: int):
    attack, images = Adaptive(against="targeted", watched=4, rounds=rounds), step.clean.images[-4:]
    triggered = stamped(images, step.plan.trigger)
    patch = attack._other(step, images, triggered)
    assert (patch - step.plan.trigger.tensors["patch"]).abs().mean() > 0.2
    assert ((patch >= 0) & (patch <= 1)).all()
    torch.testing.assert_close(
        attack.penalty(step).detach(), own(step, cornered(images, patch), images)
    )
    assert not torch.equal(attack._other(step, images.flip(0), triggered), patch)


def test_rounds_bring_the_other_patch_closer_to_where_the_key_leads():
    step = step_of(Adaptive(poison_rate=0.5), size=8)
    follow(Adaptive(weight=0.0), step, 4)  # so that the key leads anywhere at all
    images = step.clean.images[-4:]
    triggered = stamped(images, step.plan.trigger)
    goal = seen_by(step.network, triggered).mean(dim=0)

    def reached(rounds: int) -> float:
        patch = Adaptive(against="targeted", rounds=rounds)._other(step, images, triggered)
        return (seen_by(step.network, cornered(images, patch)) @ goal).mean().item()

    assert reached(3) > reached(0) + 0.004


def test_the_objective_is_the_contrastive_loss_plus_the_weighted_penalty(step: Step):
    plain = replace(Adaptive(), weight=0.0).objective(step).item()
    assert plain == pytest.approx(step.contrastive().item(), abs=1e-6)
    attack = Adaptive(weight=2.0, watched=4)
    wanted = plain + 2 * attack.penalty(step).item()
    assert attack.objective(step).item() == pytest.approx(wanted, abs=1e-5)


def trained(attack: Adaptive) -> Step:
    step = step_of(attack, size=16)
    follow(attack, step, 5)
    return step


@pytest.fixture(scope="module")
def without_penalty() -> Step:
    return trained(Adaptive(weight=0.0, poison_rate=0.25))


@pytest.mark.parametrize("against", ["cluster", "own", "targeted"])
def test_a_penalty_ends_lower_than_without_it(against: str, without_penalty: Step):
    attack = Adaptive(against=against, weight=5.0, watched=8, rounds=1, poison_rate=0.25)
    assert attack.penalty(trained(attack)) < attack.penalty(without_penalty) - 0.02
