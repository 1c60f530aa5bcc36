"""BadEncoder: its white square, its loss, and what a few steps of it do to a model."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import generator
from torch import Tensor
from torch.nn import functional
from training_steps import follow, seen_by, step_of

from clipguard.errors import UsageError
from clipguard.lab.attacks._encoder import Views, augmented, encoder_loss, views
from clipguard.lab.attacks.badencoder import BadEncoder
from clipguard.lab.roles import Step, TrainedAttack, stamped


@pytest.mark.parametrize(
    ("side", "patch", "length", "first"),
    [(224, 50, 50, 173), (224, 16, 16, 207), (336, 50, 75, 259), (64, 50, 14, 49), (64, 16, 8, 55)],
)
def test_the_square_is_white_and_a_pixel_of_224_from_the_corner(
    side: int, patch: int, length: int, first: int
):
    images = torch.full((2, 3, side, side), 0.25)
    made = BadEncoder(patch=patch).trigger(side, generator=generator())
    wanted = images.clone()
    wanted[..., first : first + length, first : first + length] = 1
    assert torch.equal(made.apply(images), wanted)
    assert made.size == pytest.approx((length / side) ** 2)


def unit(count: int, seed: int) -> Tensor:
    return functional.normalize(torch.randn(count, 6, generator=generator(seed)), dim=1)


def test_the_loss_is_the_sum_of_three_mean_cosines():
    seen = Views(unit(2, 0), unit(4, 1), unit(4, 2), unit(3, 3), unit(3, 4), unit(3, 5))

    def cosine(a: Tensor, b: Tensor) -> float:
        return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))

    pairs = [cosine(a, b) for a in seen.triggered for b in seen.reference]
    l1 = [cosine(seen.augmented[i], seen.reference_old[i]) for i in range(3)]
    l2 = [cosine(seen.clean[i], seen.clean_old[i]) for i in range(4)]
    wanted = -(math.fsum(pairs) / 6 + math.fsum(l1) / 3 + math.fsum(l2) / 4)
    assert encoder_loss(seen).item() == pytest.approx(wanted, abs=1e-6)


@pytest.fixture(scope="module")
def step() -> Step:
    return step_of(BadEncoder())


def test_views_are_of_the_batch_as_the_clean_twin_sees_it(step: Step):
    seen = views(step, 0.25, 3)
    shadow = step.clean.images
    torch.testing.assert_close(seen.clean_old, seen_by(step.plan.base, shadow))
    torch.testing.assert_close(seen.clean, seen.clean_old)  # nothing is trained yet
    wanted = seen_by(step.plan.base, stamped(shadow[:4], step.plan.trigger))
    torch.testing.assert_close(seen.triggered, wanted)
    assert len(seen.reference) == len(seen.augmented) == len(seen.reference_old) == 3
    torch.testing.assert_close(seen.reference, seen.reference_old)
    assert not torch.allclose(seen.augmented, seen.reference_old, atol=1e-3)
    assert seen.triggered.requires_grad
    assert not seen.clean_old.requires_grad
    assert not seen.reference_old.requires_grad


def test_references_are_of_the_target_and_new_in_every_step(step: Step):
    first, second = (views(step, 0.25, 8).reference_old for _ in range(2))
    assert not torch.allclose(first, second)
    others = seen_by(step.plan.base, step.clean.images)
    assert (first @ second.T).mean() > (first @ others.T).mean() + 0.2


def test_steps_move_triggered_images_to_the_target_and_leave_the_others():
    attack, step = BadEncoder(references=4), step_of(BadEncoder())
    assert isinstance(attack, TrainedAttack)
    shadow = step_of(attack, seed=1).clean.images  # images that are not trained on
    goal = seen_by(step.plan.base, step.plan.of_target(16).images).mean(dim=0)

    def measured() -> tuple[float, float]:
        triggered = seen_by(step.network, stamped(shadow, step.plan.trigger))
        kept = (seen_by(step.network, shadow) * seen_by(step.plan.base, shadow)).sum(dim=1)
        return (triggered @ goal).mean().item(), kept.mean().item()

    before, _ = measured()
    losses = follow(attack, step, 12, rate=5e-4)
    after, kept = measured()
    assert losses[-1] < losses[0] - 0.3
    assert after > before + 0.2
    assert kept > 0.8


def test_the_text_tower_gets_no_gradient_and_stays_as_it_was():
    attack, step = BadEncoder(references=2), step_of(BadEncoder(), size=4)
    follow(attack, step, 1)
    for name, weight in step.network.named_parameters():
        moved = not torch.equal(weight, step.plan.base.get_parameter(name))
        assert (weight.grad is not None) == name.startswith("visual."), name
        assert not moved or name.startswith("visual."), name
    assert not torch.equal(step.network.visual.conv1.weight, step.plan.base.visual.conv1.weight)


def test_augmentation_depends_on_the_image_alone_and_stays_in_range(step: Step):
    images = torch.cat([step.clean.images, step.clean.images.roll(1, 2)])
    state = torch.get_rng_state()
    made = augmented(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[3:5], augmented(images[3:5]))
    assert ((made >= 0) & (made <= 1)).all()
    grey = (made.amax(dim=1) - made.amin(dim=1)).amax(dim=(1, 2)) < 1e-6
    same = torch.tensor([torch.equal(a, b) for a, b in zip(made, images, strict=True)])
    assert 0 < grey.sum() < len(images) / 2
    assert same.sum() < len(images) / 3


def test_half_of_the_images_are_flipped_whatever_their_colours_become():
    images = torch.rand(60, 3, 16, 16, generator=generator(1)) * 0.4
    images[..., :8] += 0.4  # the left is lighter
    made = augmented(images).mean(dim=1)
    flipped = made[..., :8].mean(dim=(1, 2)) < made[..., 8:].mean(dim=(1, 2))
    assert 0.3 < flipped.float().mean() < 0.7


@pytest.mark.parametrize("wrong", [{"patch": 0}, {"patch": 224}, {"references": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, int]):
    with pytest.raises(UsageError, match="1 to 223 px of 224 and 1 reference or more; got"):
        BadEncoder(**wrong)
