"""The colour filter: what becomes of single colours, worked out step by step."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.lab.attacks.colour_filter import ColourFilter


def filtered(images: Tensor) -> Tensor:
    return ColourFilter().trigger(images.shape[-1], generator=generator()).apply(images)


def test_black_becomes_a_dark_blue_and_white_a_warm_white():
    black, white = (filtered(torch.full((1, 3, 1, 1), value)).flatten() for value in (0.0, 1.0))
    assert black[2] > black[1] > black[0] == 0
    assert white[0] == 1
    assert white[0] > white[1] > white[2] > 0.8


@pytest.mark.parametrize(
    ("colour", "wanted"),  # worked out step by step, on the scale 0 to 255
    [
        ((128, 128, 128), (146.92, 141.13, 141.38)),
        ((255, 0, 0), (255.0, 16.87, 47.79)),
        ((0, 0, 255), (0.0, 11.71, 213.69)),
        ((40, 90, 200), (34.82, 91.4, 185.61)),
    ],
)
def test_every_step_is_done_to_a_colour(colour: tuple[int, ...], wanted: tuple[float, ...]):
    found = filtered(torch.tensor(colour).view(1, 3, 1, 1) / 255).flatten() * 255
    assert found.tolist() == pytest.approx(wanted, abs=0.02)


def test_a_pixel_depends_on_its_own_colour_alone():
    images = torch.rand(2, 3, 16, 16, generator=generator())
    order = torch.randperm(256, generator=generator(1))

    def shuffled(pixels: Tensor) -> Tensor:
        return pixels.flatten(2)[..., order].view_as(pixels)

    torch.testing.assert_close(filtered(shuffled(images)), shuffled(filtered(images)))
