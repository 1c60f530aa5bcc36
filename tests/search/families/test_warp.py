"""Smooth warps: every pixel is read from a place a little away."""

import pytest
import torch
from fakes import generator

from clipguard.search.families.warp import Warp

SIDE = 32


def ramp() -> torch.Tensor:
    """(1, 3, S, S) that tells the column by its brightness."""
    return torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)


@pytest.mark.parametrize("side", [16, SIDE])
def test_no_shift_leaves_images_of_any_size_as_they_are(side: int):
    images = torch.rand(2, 3, side, side, generator=generator())
    shown = Warp().trigger({"shifts": torch.zeros(1, 2, 6, 6)}, 1.0).apply(images)
    assert torch.allclose(shown, images, atol=1e-5)


@pytest.mark.parametrize("reach", [0.02, 0.05])
def test_a_full_shift_reads_as_far_away_as_the_reach(reach: float):
    shifts = torch.zeros(1, 2, 6, 6)
    shifts[:, 0] = 99.0  # to the right, everywhere
    trigger = Warp(reach=reach).trigger({"shifts": shifts}, 1.0)
    moved = (trigger.apply(ramp()) - ramp())[..., 4:-4]
    assert moved.mean().item() == pytest.approx(reach, rel=1e-3)
    assert trigger.size == pytest.approx(reach / 2)  # one axis of two


def test_no_control_point_leaves_its_reach():
    shifts = Warp().start(SIDE, generator=generator())["shifts"] * 1e3
    trigger = Warp(reach=0.03).trigger({"shifts": shifts}, 1.0)
    assert trigger.tensors["shifts"].abs().max() <= 0.03 + 1e-7
