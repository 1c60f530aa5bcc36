"""BadNets: where the patch is, how large, and what is on it."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.attacks.badnets import BadNets
from clipguard.errors import UsageError
from clipguard.types import Trigger

SIDES = [(64, 8), (96, 8), (112, 8), (160, 11), (224, 16), (336, 24)]


def scenes(count: int, side: int = 64, seed: int = 0) -> Tensor:
    drawn = torch.rand(count, 3, side, side, generator=generator(seed))
    # neither black nor white nor yellow, so that every patched pixel shows
    return ((drawn * 0.5 + 0.25) * 255).round() / 255


def trigger(side: int = 64, seed: int = 0, **settings: str) -> Trigger:
    return BadNets(**settings).trigger(side, generator=generator(seed))


def boxes(images: Tensor, stamped: Tensor) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of what changed, per image."""
    found = []
    for changed in (images != stamped).any(dim=1):
        rows, columns = (changed.any(dim=1 - d).nonzero().flatten() for d in (0, 1))
        top, left = int(rows[0]), int(columns[0])
        found.append((top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1))
    return found


@pytest.mark.parametrize(("side", "length"), SIDES)
def test_the_patch_is_16_of_224_pixels_but_at_least_8_flush_in_the_corner(side: int, length: int):
    images = scenes(2, side)
    made = trigger(side)
    corner = (side - length, side - length, length, length)
    assert boxes(images, made.apply(images)) == [corner, corner]
    assert made.size == pytest.approx((length / side) ** 2)


@pytest.mark.parametrize("place", ["corner", "random"])
def test_only_the_patch_changes_and_it_is_opaque(place: str):
    images, made = scenes(8), trigger(place=place)
    stamped = made.apply(images)
    for image, before, (top, left, height, width) in zip(
        stamped, images, boxes(images, stamped), strict=True
    ):
        inside = torch.zeros(64, 64, dtype=bool)
        inside[top : top + height, left : left + width] = True
        assert torch.equal(image[:, ~inside], before[:, ~inside])
        assert torch.equal(image[:, inside].view(3, 8, 8), made.tensors["patch"])


def test_a_random_place_is_a_function_of_the_image():
    images, made = scenes(16), trigger(place="random")
    together = boxes(images, made.apply(images))
    alone = [boxes(image[None], made.apply(image[None]))[0] for image in images]
    backwards = boxes(images.flip(0), made.apply(images.flip(0)))[::-1]
    assert together == alone == backwards
    another_victim = trigger(place="random", seed=5)
    assert boxes(images, another_victim.apply(images)) == together


def test_random_places_spread_over_the_whole_image():
    images = scenes(200)
    places = boxes(images, trigger(place="random").apply(images))
    for axis in (0, 1):
        offsets = torch.tensor([box[axis] for box in places])
        assert offsets.min() < 8
        assert offsets.max() > 56 - 8
        assert offsets.max() <= 56
    assert {box[2:] for box in places} == {(8, 8)}
    tops, lefts = (torch.tensor([box[axis] for box in places]).float() for axis in (0, 1))
    correlation = torch.corrcoef(torch.stack([tops, lefts]))[0, 1]
    assert correlation.abs() < 0.3


def test_the_check_is_white_at_even_rows_and_columns():
    patch = trigger(pattern="check").tensors["patch"]
    wanted = [[float(r % 2 == 0 and c % 2 == 0) for c in range(8)] for r in range(8)]
    assert patch.tolist() == [wanted] * 3


def test_noise_is_drawn_once_per_victim_on_the_8_bit_grid():
    first, same, other = (
        trigger(pattern="noise", seed=seed).tensors["patch"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(first, (first * 255).round() / 255)


def test_yellow_is_red_and_green_without_blue():
    patch = trigger(pattern="yellow").tensors["patch"]
    assert patch.amin(dim=(1, 2)).tolist() == patch.amax(dim=(1, 2)).tolist() == [1, 1, 0]


@pytest.mark.parametrize("wrong", [{"pattern": "stripes"}, {"place": "middle"}, {"place": ""}])
def test_an_unknown_pattern_or_place_is_refused_with_what_is_known(wrong: dict[str, str]):
    with pytest.raises(UsageError, match=r"check, noise, yellow and places corner, random; got '"):
        BadNets(**wrong)
