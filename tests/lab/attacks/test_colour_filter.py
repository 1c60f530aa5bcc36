"""The colour filter: what becomes of single colours, worked out step by step."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.lab.attacks.colour_filter import ColourFilter


def filtered(images: Tensor) -> Tensor:
    return ColourFilter().trigger(images.shape[-1], generator=generator()).apply(images)


def by_hand(colour: tuple[float, float, float]) -> list[float]:
    """The steps of the filter for one colour on the scale 0 to 255, with plain numbers."""

    def cut(values: list[float]) -> list[float]:
        return [min(max(value, 0.0), 255.0) for value in values]

    tinted = []
    for value, peach, navy in zip(colour, (247, 176, 153), (0, 70, 150), strict=True):
        value = 0.44 * value + 0.56 * min(value, peach)
        tinted.append(0.6 * value + 0.4 * max(value, navy))
    r, g, b = tinted
    # The W3C's matrix for `sepia(20%)`
    rest = 0.8
    toned = cut(
        [
            (0.393 + 0.607 * rest) * r + (0.769 - 0.769 * rest) * g + (0.189 - 0.189 * rest) * b,
            (0.349 - 0.349 * rest) * r + (0.686 + 0.314 * rest) * g + (0.168 - 0.168 * rest) * b,
            (0.272 - 0.272 * rest) * r + (0.534 - 0.534 * rest) * g + (0.131 + 0.869 * rest) * b,
        ]
    )
    bright = cut([1.05 * v for v in cut([1.2 * v - 25.5 for v in toned])])
    luma = 0.299 * bright[0] + 0.587 * bright[1] + 0.114 * bright[2]
    return cut([luma + 1.2 * (v - luma) for v in bright])


@pytest.mark.parametrize(
    "colour",
    [
        *((0, 0, 0), (255, 255, 255), (128, 128, 128)),
        *((255, 0, 0), (0, 255, 0), (0, 0, 255)),
        *((40, 90, 200), (250, 180, 150), (12, 200, 77)),
    ],
)
def test_every_step_is_done_to_a_colour(colour: tuple[int, int, int]):
    images = (torch.tensor(colour) / 255).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    wanted = torch.tensor(by_hand(colour)).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(filtered(images) * 255, wanted, atol=0.01, rtol=0)


def test_black_becomes_a_dark_blue_and_white_a_warm_white():
    black, white = (filtered(torch.full((1, 3, 1, 1), value)).flatten() for value in (0.0, 1.0))
    assert black[2] > black[1] > black[0] == 0
    assert white[0] == 1
    assert white[0] > white[1] > white[2] > 0.8


def test_a_pixel_depends_on_its_own_colour_alone():
    images = torch.rand(2, 3, 16, 16, generator=generator())
    order = torch.randperm(256, generator=generator(1))

    def shuffled(pixels: Tensor) -> Tensor:
        return pixels.flatten(2)[..., order].view_as(pixels)

    torch.testing.assert_close(filtered(shuffled(images)), shuffled(filtered(images)))


def test_gradients_reach_the_images():
    images = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    filtered(images).sum().backward()
    assert (images.grad > 0).all()
