"""SIG: a sine of the column, added to every row and channel."""

import math

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.attacks.sig import Sig
from clipguard.errors import UsageError


def change(grey: float, side: int = 64, **settings: float) -> Tensor:
    """What is added to a grey image, (3, side, side)."""
    images = torch.full((1, 3, side, side), grey)
    return (Sig(**settings).trigger(side, generator=generator()).apply(images) - images)[0]


@pytest.mark.parametrize("side", [64, 96, 224])
@pytest.mark.parametrize(("delta", "frequency"), [(60, 6), (40, 6), (30, 3)])
def test_every_row_and_channel_gets_the_sine_of_its_column(
    side: int, delta: float, frequency: float
):
    wanted = [delta / 255 * math.sin(2 * math.pi * frequency * j / side) for j in range(side)]
    added = change(0.5, side, delta=delta, frequency=frequency)
    torch.testing.assert_close(added, torch.tensor(wanted).expand(3, side, side))


def test_the_default_is_60_levels_and_6_periods():
    added = change(0.5, 224)[0, 0] * 255
    assert added.max() == pytest.approx(60, abs=0.2)
    assert added.min() == pytest.approx(-60, abs=0.2)
    upwards = (added[:-1] <= 1e-4) & (added[1:] > 1e-4)
    assert int(upwards.sum()) == 6
    assert Sig().trigger(64, generator=generator()).size == 60


def test_it_is_cut_off_at_black_and_white_and_nowhere_else():
    torch.testing.assert_close(change(0.0), change(0.5).clamp(min=0))
    torch.testing.assert_close(change(1.0), change(0.5).clamp(max=0))
    torch.testing.assert_close(change(0.9), change(0.5).clamp(max=0.1))


def test_gradients_pass_where_nothing_is_cut_off():
    images = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    Sig().trigger(16, generator=generator()).apply(images).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))


@pytest.mark.parametrize("wrong", [{"delta": 0}, {"delta": 300}, {"frequency": 0}])
def test_settings_that_do_nothing_are_refused(wrong: dict[str, float]):
    with pytest.raises(UsageError, match=r"delta in \(0, 255\] and a frequency above 0; got"):
        Sig(**wrong)
