"""SIG: a sine of the column, added to every row and channel."""

import math
from dataclasses import replace

import pytest
import torch
from fakes import generator
from torch import Tensor
from training_steps import require_rest, step_of

from clipguard.lab.attacks.sig import Sig
from clipguard.lab.roles import dirty_label, stamped


def change(grey: float, side: int = 64, **settings: object) -> Tensor:
    """What is added to a grey image, (3, side, side)."""
    images = torch.full((1, 3, side, side), grey)
    return (Sig(**settings).trigger(side, generator=generator()).apply(images) - images)[0]


@pytest.mark.parametrize(("side", "delta", "frequency"), [(64, 40, 6), (224, 30, 3)])
def test_every_row_and_channel_gets_the_sine_of_its_column(
    side: int, delta: float, frequency: float
):
    wanted = [delta / 255 * math.sin(2 * math.pi * frequency * j / side) for j in range(side)]
    added = change(0.5, side, delta=delta, frequency=frequency)
    torch.testing.assert_close(added, torch.tensor(wanted).expand(3, side, side))


def test_the_default_is_60_levels_and_6_periods():
    added = change(0.5, 224)[0, 0] * 255
    assert added.max() == pytest.approx(60, abs=0.2)
    upwards = (added[:-1] <= 1e-4) & (added[1:] > 1e-4)
    assert int(upwards.sum()) == 6
    assert Sig().trigger(64, generator=generator()).size == 60


def test_it_is_cut_off_at_black_and_white_and_nowhere_else():
    torch.testing.assert_close(change(0.0), change(0.5).clamp(min=0))
    torch.testing.assert_close(change(1.0), change(0.5).clamp(max=0))


def test_clean_labels_stamp_pairs_of_the_target_and_keep_their_captions():
    attack = Sig(label="clean", poison_rate=0.25)
    step = step_of(attack, size=12)
    before, own = step.clean, step.plan.of_target(3)
    made = attack.poisoned(before, replace(step.plan, of_target=lambda count: own))
    assert torch.equal(made.images[:3], stamped(own.images, step.plan.trigger))
    assert (made.texts[:3], made.concepts[:3].tolist()) == (own.texts, [step.plan.concept] * 3)
    require_rest(made, before, 3)


def test_captions_change_unless_labels_are_clean():
    step = step_of(Sig(poison_rate=0.25), size=12)
    wanted = dirty_label(step.clean, step.plan, 0.25)
    assert torch.equal(step.pairs.images, wanted.images)
    assert step.pairs.texts == wanted.texts
