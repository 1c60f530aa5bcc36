"""BadEncoder: its white square, its loss, and what a few steps of it do to a model."""

from __future__ import annotations

import pytest
import torch
from training_steps import follow, seen_by, step_of

from clipguard.lab.attacks._encoder import Views, augmented, encoder_loss, views
from clipguard.lab.attacks.badencoder import BadEncoder
from clipguard.lab.roles import Step, stamped


def test_the_loss_asks_for_three_cosines_of_one():
    one = torch.full((2, 4), 0.5)
    seen = Views(one, one, one, one, one, one)
    assert encoder_loss(seen).item() == pytest.approx(-3)
    for name in ("triggered", "clean", "augmented"):
        assert encoder_loss(seen._replace(**{name: -one})).item() == pytest.approx(-1)


@pytest.fixture(scope="module")
def step() -> Step:
    return step_of(BadEncoder())


def test_views_are_of_the_batch_as_the_clean_twin_sees_it(step: Step):
    seen = views(step, 0.25, 3)
    shadow = step.clean.images
    torch.testing.assert_close(seen.clean_old, seen_by(step.plan.base, shadow))
    wanted = seen_by(step.plan.base, stamped(shadow[:4], step.plan.trigger))
    torch.testing.assert_close(seen.triggered, wanted)
    assert len(seen.reference) == 3
    torch.testing.assert_close(seen.reference, seen.reference_old)  # nothing is trained yet
    assert not torch.allclose(seen.augmented, seen.reference_old, atol=1e-3)
    assert [rows.requires_grad for rows in seen] == [True, True, False, True, True, False]


def test_steps_move_triggered_images_to_the_target_and_leave_the_others():
    attack, step = BadEncoder(references=4), step_of(BadEncoder())
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
    made = augmented(images)
    assert torch.equal(made[3:5], augmented(images[3:5]))
    assert ((made >= 0) & (made <= 1)).all()
    same = torch.tensor([torch.equal(a, b) for a, b in zip(made, images, strict=True)])
    assert same.sum() < len(images) / 3
