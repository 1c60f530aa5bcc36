"""FTrojan: which coefficients of which blocks change, and by how much."""

import math

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.lab.attacks.ftrojan import FTrojan

# R, G, B of a unit of luma, U and V; its inverse takes RGB apart
YUV = torch.tensor([[1.0, 0.0, 1.14], [1.0, -0.396, -0.581], [1.0, 2.029, 0.0]])


def added(side: int, **settings: float) -> Tensor:
    """(3, side, side) change of a grey image, on the scale 0 to 255."""
    images = torch.full((1, 3, side, side), 0.5)
    made = FTrojan(**settings).trigger(side, generator=generator())
    return (made.apply(images) - images)[0] * 255


def coefficients(plane: Tensor, block: int) -> Tensor:
    """(blocks, blocks, block, block) orthonormal DCT of every block of a (side, side) plane."""
    basis = torch.tensor(
        [
            [
                math.sqrt((1 if k == 0 else 2) / block)
                * math.cos(math.pi * (2 * n + 1) * k / (2 * block))
                for n in range(block)
            ]
            for k in range(block)
        ]
    )
    cut = plane.unfold(0, block, block).unfold(1, block, block)
    return basis @ cut @ basis.T


@pytest.mark.parametrize(("side", "block", "middle"), [(64, 8, 3), (112, 16, 7), (224, 32, 15)])
def test_two_coefficients_of_u_and_v_grow_in_every_block_and_nothing_else_does(
    side: int, block: int, middle: int
):
    change = torch.einsum("dc,cij->dij", torch.linalg.inv(YUV), added(side))
    wanted = torch.zeros(block, block)
    for k in (middle, block - 1):
        wanted[k, k] = 300 * block / 32
    found = [coefficients(plane, block) for plane in change]
    torch.testing.assert_close(found[0], torch.zeros_like(found[0]), atol=0.01, rtol=0)
    for colour in found[1:]:
        assert colour.shape[:2] == (side // block, side // block)
        torch.testing.assert_close(colour, wanted.expand_as(colour), atol=0.01, rtol=0)


def test_the_magnitude_scales_the_pattern_and_the_size_is_its_peak():
    torch.testing.assert_close(added(64, magnitude=150), added(64) / 2, atol=1e-3, rtol=0)
    made = FTrojan().trigger(64, generator=generator())
    assert made.size == pytest.approx(added(64).abs().max().item(), rel=1e-4)


def test_it_is_cut_off_at_black_and_white():
    made = FTrojan().trigger(64, generator=generator())
    pattern = made.tensors["pattern"]
    for value in (0.0, 1.0):
        shown = made.apply(torch.full((1, 3, 64, 64), value))[0]
        torch.testing.assert_close(shown, (value + pattern).clamp(0, 1))
