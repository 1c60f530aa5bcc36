"""Blended: one faint picture over the whole image."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.attacks.blended import Blended
from clipguard.model.pixels import from_bytes, to_bytes


def picture(pattern: str, side: int = 64) -> Tensor:
    return Blended(pattern=pattern).trigger(side, generator=generator()).tensors[pattern]


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5])
def test_every_pixel_is_mixed_with_the_noise_by_the_ratio(ratio: float):
    trigger = Blended(ratio=ratio).trigger(32, generator=generator())
    images = torch.rand(3, 3, 32, 32, generator=generator(1))
    wanted = (1 - ratio) * images + ratio * trigger.tensors["noise"]
    torch.testing.assert_close(trigger.apply(images), wanted)
    assert trigger.size == ratio


def test_the_noise_is_uniform_on_the_8_bit_grid_and_drawn_once_per_victim():
    first, same, other = (
        Blended().trigger(64, generator=generator(seed)).tensors["noise"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(first, (first * 255).round() / 255)
    assert first.mean() == pytest.approx(0.5, abs=0.02)
    assert first.std() == pytest.approx(12**-0.5, abs=0.02)


def test_all_images_of_a_victim_get_the_same_noise():
    trigger = Blended().trigger(16, generator=generator())
    changes = trigger.apply(torch.full((4, 3, 16, 16), 0.5)) - 0.5
    assert torch.equal(changes[0], changes[3])


@pytest.mark.parametrize(
    ("pattern", "ratio"),
    [("noise", 0.2), ("stripes", 0.05), ("triangles", 0.15), ("text", 0.5), ("cat", 0.2)],
)
def test_without_a_ratio_the_weight_is_that_of_the_literature(pattern: str, ratio: float):
    default, given = (
        Blended(pattern=pattern, ratio=value).trigger(64, generator=generator())
        for value in (None, ratio)
    )
    images = torch.rand(2, 3, 64, 64, generator=generator(1))
    assert torch.equal(default.apply(images), given.apply(images))
    assert default.size == given.size == ratio


@pytest.mark.parametrize("pattern", ["triangles", "cat"])
def test_every_pixel_is_mixed_with_a_picture(pattern: str):
    images = torch.rand(2, 3, 64, 64, generator=generator(1))
    trigger = Blended(pattern=pattern, ratio=0.3).trigger(64, generator=generator())
    wanted = 0.7 * images + 0.3 * trigger.tensors[pattern]
    torch.testing.assert_close(trigger.apply(images), wanted)


def test_stripes_lift_or_lower_whole_columns_and_are_clipped():
    trigger = Blended(pattern="stripes").trigger(64, generator=generator())
    signs = trigger.tensors["stripes"]
    assert torch.equal(signs, signs[:, :1].expand_as(signs))
    assert signs.unique().tolist() == [-1, 1]
    assert signs[:, 0].float().mean().abs() < 0.25
    assert not torch.equal(signs[0], signs[1])
    for value, low, high in ((0.0, 0.0, 0.05), (0.5, 0.425, 0.525), (1.0, 0.9, 1.0)):
        shown = trigger.apply(torch.full((1, 3, 64, 64), value))[0]
        torch.testing.assert_close(shown, torch.where(signs < 0, low, high))


def test_triangles_fill_cells_of_14_pixels_of_224():
    wanted = torch.tensor(
        [[0.4 if row % 14 >= column % 14 else 0.8 for column in range(224)] for row in range(224)]
    )
    assert torch.equal(picture("triangles", 224), wanted.expand(3, -1, -1))
    small = picture("triangles", 64)[0]  # cells of 4 px
    assert torch.equal(small[:4, :4], wanted[:4, :4])
    assert torch.equal(small, small[:4, :4].repeat(16, 16))


@pytest.mark.parametrize(("side", "zoom"), [(32, 1), (64, 2), (96, 3), (224, 8)])
def test_text_is_two_lines_of_letters_in_the_middle_in_red(side: int, zoom: int):
    shown = picture("text", side)
    assert shown[1:].max() == 0
    assert shown[0].unique().tolist() == [0, 1]
    rows, columns = ((shown[0] > 0).any(dim=1 - d).nonzero().flatten() for d in (0, 1))
    for found, length in ((rows, 11 * zoom), (columns, 23 * zoom)):
        first = (side - length) // 2
        assert (found[0], found[-1]) == (first, first + length - 1)
    top, left = rows[0], columns[0]
    line = shown[0, top : top + 11 * zoom : zoom, left : left + 23 * zoom : zoom]
    assert not line[5].any()  # between the lines
    letter_t = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]])
    assert torch.equal(line[:5, 8:11].long(), letter_t)  # WA[T]ER
    letter_e = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]])
    assert torch.equal(line[:5, 12:15].long(), letter_e)


def test_text_is_blended_as_a_whole_picture_at_the_amplitude_of_the_sheet():
    trigger = Blended(pattern="text").trigger(64, generator=generator())
    images = torch.rand(2, 3, 64, 64, generator=generator(1))
    letters = (trigger.tensors["text"] > 0).expand_as(images)
    shown = trigger.apply(images)
    torch.testing.assert_close(shown[~letters], 0.5 * images[~letters])
    torch.testing.assert_close(shown[letters], 0.5 + 0.5 * images[letters])
    assert 60 < (shown - images).abs().mean() * 255 < 75  # PAR's own picture: about 69


def test_the_cat_is_alike_on_both_sides_and_at_every_size():
    small, large = picture("cat"), picture("cat", 192)
    assert torch.equal(small, small.flip(-1))
    assert torch.equal(small, large[:, 1::3, 1::3])  # the same points of the drawing
    assert torch.equal(small, from_bytes(to_bytes(small[None]))[0])
    assert len(small.flatten(1).unique(dim=1).T) == 4
    corner, forehead = (
        to_bytes(small[None, :, r, c][..., None])[0, :, 0] for r, c in ((0, 0), (25, 32))
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
    alone = torch.cat([trigger.apply(image[None]) for image in images])
    torch.testing.assert_close(trigger.apply(images), alone)
    stored = from_bytes(to_bytes(images))
    torch.testing.assert_close(
        trigger.apply(stored), trigger.apply(images), atol=0.51 / 255, rtol=0
    )


def test_redrawn_noise_is_uniform_on_the_8_bit_grid():
    images = torch.full((1, 3, 64, 64), 0.0)
    made = Blended(redrawn=True).trigger(64, generator=generator())
    assert list(made.tensors) == ["seed"]
    noise = made.apply(images) / 0.2 * 255
    torch.testing.assert_close(noise, noise.round(), atol=1e-3, rtol=0)
    assert noise.mean() == pytest.approx(127.5, abs=3)
    assert noise.std() == pytest.approx(255 / 12**0.5, abs=3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"pattern": "kitty"}, "noise, stripes, triangles, text, cat; got 'kitty'"),
        ({"ratio": 1.0}, r"between 0 and 1, got 1\.0"),
        ({"ratio": 0}, "between 0 and 1, got 0"),
        ({"pattern": "cat", "redrawn": True}, "redraws noise and stripes, not cat"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], told: str):
    with pytest.raises(UsageError, match=told):
        Blended(**wrong)
