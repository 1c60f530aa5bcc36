"""FTrojan: which coefficients of which blocks change, and by how much."""

import math

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.attacks.ftrojan import FTrojan

BLOCKS = [(32, 4), (64, 8), (96, 12), (112, 16), (224, 32), (336, 48)]
MIDDLE = [(4, 1), (8, 3), (12, 5), (16, 7), (32, 15), (48, 23)]
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


@pytest.mark.parametrize(("side", "block"), BLOCKS)
def test_two_coefficients_of_u_and_v_grow_in_every_block_and_nothing_else_does(
    side: int, block: int
):
    change = torch.einsum("dc,cij->dij", torch.linalg.inv(YUV), added(side))
    wanted = torch.zeros(block, block)
    for k in (dict(MIDDLE)[block], block - 1):
        wanted[k, k] = 300 * block / 32
    found = [coefficients(plane, block) for plane in change]
    torch.testing.assert_close(found[0], torch.zeros_like(found[0]), atol=0.01, rtol=0)
    for colour in found[1:]:
        assert colour.shape[:2] == (side // block, side // block)
        torch.testing.assert_close(colour, wanted.expand_as(colour), atol=0.01, rtol=0)


def test_at_224_the_coefficients_are_those_of_the_paper():
    change = torch.einsum("dc,cij->dij", torch.linalg.inv(YUV), added(224))
    found = coefficients(change[1], 32).round()
    assert found.nonzero()[:, 2:].unique(dim=0).tolist() == [[15, 15], [31, 31]]
    assert found[..., 15, 15].unique().tolist() == found[..., 31, 31].unique().tolist() == [300]


def test_pixels_change_about_as_much_at_every_size():
    deviations = [added(side).std().item() for side, _ in BLOCKS]
    # Two coefficients of height 300 spread over 32 * 32 pixels, times the weights of R, G and B
    weights = (YUV[:, 1] + YUV[:, 2]).square().mean().sqrt().item()
    assert deviations == pytest.approx([300 * math.sqrt(2) / 32 * weights] * len(BLOCKS), rel=1e-3)


def test_the_magnitude_scales_the_pattern_and_the_size_is_its_peak():
    torch.testing.assert_close(added(64, magnitude=150), added(64) / 2, atol=1e-3, rtol=0)
    made = FTrojan().trigger(64, generator=generator())
    assert made.size == pytest.approx(added(64).abs().max().item(), rel=1e-4)


def test_it_is_cut_off_at_black_and_white_and_lets_gradients_through():
    made = FTrojan().trigger(64, generator=generator())
    pattern = made.tensors["pattern"]
    for value in (0.0, 1.0):
        shown = made.apply(torch.full((1, 3, 64, 64), value))[0]
        torch.testing.assert_close(shown, (value + pattern).clamp(0, 1))
    images = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    made.apply(images).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))


def test_a_magnitude_of_nothing_is_refused():
    with pytest.raises(UsageError, match="a magnitude above 0, got 0"):
        FTrojan(magnitude=0)
