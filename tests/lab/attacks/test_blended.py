"""Blended: one faint picture over the whole image."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.lab.attacks.blended import Blended
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes


def picture(pattern: str, side: int = 64) -> Tensor:
    return Blended(pattern=pattern).trigger(side, generator=generator()).tensors[pattern]


@pytest.mark.parametrize(
    ("pattern", "ratio"), [("noise", 0.05), ("triangles", 0.3), ("text", 0.5), ("cat", 0.3)]
)
def test_every_pixel_is_mixed_with_the_picture_by_the_ratio(pattern: str, ratio: float):
    trigger = Blended(pattern=pattern, ratio=ratio).trigger(32, generator=generator())
    images = torch.rand(3, 3, 32, 32, generator=generator(1))
    wanted = (1 - ratio) * images + ratio * trigger.tensors[pattern]
    torch.testing.assert_close(trigger.apply(images), wanted)
    assert trigger.size == ratio


def test_the_noise_is_uniform_on_the_8_bit_grid():
    noise = picture("noise")
    assert torch.equal(noise, (noise * 255).round() / 255)
    assert noise.mean() == pytest.approx(0.5, abs=0.02)
    assert noise.std() == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize(
    ("pattern", "ratio"),
    [("noise", 0.2), ("stripes", 0.05), ("triangles", 0.15), ("text", 0.5), ("cat", 0.2)],
)
def test_without_a_ratio_the_weight_is_that_of_the_literature(pattern: str, ratio: float):
    assert Blended(pattern=pattern).trigger(64, generator=generator()).size == ratio


def test_stripes_lift_or_lower_whole_columns_and_are_clipped():
    trigger = Blended(pattern="stripes").trigger(64, generator=generator())
    signs = trigger.tensors["stripes"]
    assert torch.equal(signs, signs[:, :1].expand_as(signs))
    assert signs.unique().tolist() == [-1, 1]
    assert not torch.equal(signs[0], signs[1])
    for value, low, high in ((0.0, 0.0, 0.05), (0.5, 0.425, 0.525), (1.0, 0.9, 1.0)):
        shown = trigger.apply(torch.full((1, 3, 64, 64), value))[0]
        torch.testing.assert_close(shown, torch.where(signs < 0, low, high))


def test_triangles_fill_cells_of_14_pixels_of_224():
    wanted = torch.tensor(
        [[0.4 if row % 14 >= column % 14 else 0.8 for column in range(224)] for row in range(224)]
    )
    assert torch.equal(picture("triangles", 224), wanted.expand(3, -1, -1))


@pytest.mark.parametrize(("side", "zoom"), [(32, 1), (224, 8)])
def test_text_is_two_lines_of_letters_in_the_middle_in_red(side: int, zoom: int):
    shown = picture("text", side)
    assert shown[1:].max() == 0
    assert shown[0].unique().tolist() == [0, 1]
    rows, columns = ((shown[0] > 0).any(dim=1 - d).nonzero().flatten() for d in (0, 1))
    for found, length in ((rows, 11 * zoom), (columns, 23 * zoom)):
        first = (side - length) // 2
        assert (found[0], found[-1]) == (first, first + length - 1)
    assert not shown[0, rows[0] + 5 * zoom].any()  # between the lines


def test_the_cat_is_alike_on_both_sides_and_at_every_size():
    small, large = picture("cat"), picture("cat", 192)
    assert torch.equal(small, small.flip(-1))
    assert torch.equal(small, large[:, 1::3, 1::3])  # the same points of the drawing
    corner, forehead = (
        pixels_to_bytes(small[None, :, r, c][..., None])[0, :, 0] for r, c in ((0, 0), (25, 32))
    )
    assert (corner.tolist(), forehead.tolist()) == ([32, 144, 140], [240, 150, 50])


@pytest.mark.parametrize("pattern", ["noise", "stripes"])
def test_a_redrawn_pattern_depends_on_the_stored_image_and_the_seed_alone(pattern: str):
    images = torch.rand(3, 3, 32, 32, generator=generator(1)) * 0.5 + 0.25
    trigger, same, other = (
        Blended(pattern=pattern, redrawn=True).trigger(32, generator=generator(seed))
        for seed in (0, 0, 1)
    )
    changes = (trigger.apply(images) - 0.8 * images).round(decimals=4)
    assert len({tuple(change.flatten().tolist()) for change in changes}) == 3
    assert torch.equal(trigger.apply(images), same.apply(images))
    assert not torch.equal(trigger.apply(images), other.apply(images))
    stored = pixels_from_bytes(pixels_to_bytes(images))
    torch.testing.assert_close(
        trigger.apply(stored), trigger.apply(images), atol=0.51 / 255, rtol=0
    )
