"""Waves over the whole image: few low spatial frequencies, added."""

import pytest
import torch
from fakes import generator

from clipguard.errors import UsageError
from clipguard.search.families.frequency import Frequency

SIDE = 16


def spectrum_of(delta: torch.Tensor) -> torch.Tensor:
    """(3, S, S) coefficients of an orthonormal DCT, by its definition."""
    at = torch.arange(SIDE, dtype=torch.float64)
    waves = torch.cos(torch.pi * (2 * at + 1) * at[:, None] / (2 * SIDE)) * (2 / SIDE) ** 0.5
    waves[0] /= 2**0.5
    return waves @ delta.double() @ waves.T


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_no_pixel_changes_by_more_than_the_budget(scale: float):
    family = Frequency(budget=12)
    spectrum = family.start(SIDE, generator=generator())["spectrum"] * scale
    trigger = family.trigger({"spectrum": spectrum}, 1.0)
    images = torch.rand(3, 3, SIDE, SIDE, generator=generator(1))
    assert (trigger.apply(images) - images).abs().max() <= 12 / 255 + 1e-6
    assert trigger.size <= 12 + 1e-4


def test_one_coefficient_is_one_wave():
    spectrum = torch.zeros(3, SIDE, SIDE)
    spectrum[1, 2, 3] = 0.01  # small, where tanh is straight
    delta = Frequency(waves=4, budget=255).trigger({"spectrum": spectrum}, 1.0).tensors["delta"]
    found = spectrum_of(delta).abs()
    assert found.flatten().argmax() == (1 * SIDE + 2) * SIDE + 3
    assert found.sum() == pytest.approx(found.max().item(), rel=1e-3)


def test_waves_above_the_limit_do_not_count():
    spectrum = torch.zeros(3, SIDE, SIDE)
    spectrum[:, 4:] = spectrum[:, :, 4:] = 5.0
    assert Frequency(waves=4).trigger({"spectrum": spectrum}, 1.0).size == 0
    assert Frequency(waves=99).trigger({"spectrum": spectrum}, 1.0).size > 0
    with pytest.raises(UsageError, match="1 wave or more"):
        Frequency(waves=0)
