"""BadNets: where the patch is, how large, and what is on it."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.lab.attacks._patches import _wrap
from clipguard.lab.attacks.badnets import BadNets
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.search.roles import Trigger


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


@pytest.mark.parametrize(
    ("settings", "side", "box"),
    [
        ({}, 64, (56, 56, 8, 8)),  # 16 of 224 pixels, but at least 8, flush in the corner
        ({}, 160, (149, 149, 11, 11)),
        ({}, 224, (208, 208, 16, 16)),
        ({"place": "centre"}, 64, (28, 28, 8, 8)),
        ({"place": "centre"}, 160, (74, 74, 11, 11)),  # half the image less half the patch
        ({"place": "centre"}, 224, (104, 104, 16, 16)),  # as CleanCLIP's "middle"
        ({"pattern": "white24"}, 224, (185, 185, 24, 24)),
        ({"pattern": "white50"}, 224, (173, 173, 50, 50)),
        ({"pattern": "white24"}, 64, (53, 53, 8, 8)),  # never under 8 px
        ({"pattern": "white50"}, 64, (49, 49, 14, 14)),
        ({"pattern": "white24"}, 32, (24, 24, 8, 8)),  # never over the border
    ],
)
def test_a_patch_has_its_size_and_place(
    settings: dict[str, str], side: int, box: tuple[int, int, int, int]
):
    images, made = scenes(2, side), trigger(side, **settings)
    assert boxes(images, made.apply(images)) == [box, box]
    assert made.size == pytest.approx((box[2] / side) ** 2)


@pytest.mark.parametrize(("pattern", "length"), [("noise", 8), ("gauss", 8), ("white50", 14)])
def test_four_corners_are_four_copies_of_one_patch_flush_with_the_border(pattern: str, length: int):
    images, made = scenes(3), trigger(pattern=pattern, place="corners")
    stamped = made.apply(images)
    ends = (slice(0, length), slice(64 - length, 64))
    inside = torch.zeros(64, 64, dtype=torch.bool)
    for rows in ends:
        for columns in ends:
            inside[rows, columns] = True
            first = stamped[..., :length, :length]
            assert torch.equal(stamped[..., rows, columns], first)
    assert torch.equal(stamped[..., ~inside], images[..., ~inside])
    assert made.size == pytest.approx(4 * length**2 / 64**2)


def test_a_random_place_is_a_function_of_the_image():
    images, made = scenes(16), trigger(place="random")
    together = boxes(images, made.apply(images))
    alone = [boxes(image[None], made.apply(image[None]))[0] for image in images]
    assert together == alone
    another_victim = trigger(place="random", seed=5)
    assert boxes(images, another_victim.apply(images)) == together


def test_random_places_spread_over_the_whole_image():
    images = scenes(200)
    places = boxes(images, trigger(place="random").apply(images))
    assert {box[2:] for box in places} == {(8, 8)}
    offsets = torch.tensor(places, dtype=torch.float)[:, :2].T
    assert (offsets.amin(dim=1) < 8).all()
    assert (offsets.amax(dim=1) > 56 - 8).all()
    assert torch.corrcoef(offsets)[0, 1].abs() < 0.3


def test_the_check_is_white_at_even_rows_and_columns():
    patch = trigger(pattern="check").tensors["patch"]
    wanted = [[float(r % 2 == 0 and c % 2 == 0) for c in range(8)] for r in range(8)]
    assert patch.tolist() == [wanted] * 3


@pytest.mark.parametrize(
    ("pattern", "colour"),
    [(name, [1, 1, 1]) for name in ("white", "white24", "white50")] + [("yellow", [1, 1, 0])],
)
def test_a_plain_patch_has_its_colour(pattern: str, colour: list[int]):
    patch = trigger(pattern=pattern).tensors["patch"]
    assert patch.amin(dim=(1, 2)).tolist() == patch.amax(dim=(1, 2)).tolist() == colour


def patches(pattern: str, images: Tensor, seed: int = 0) -> Tensor:
    """What is in the corner, in 8-bit levels; first proves that it is on the 8-bit grid."""
    length = max(8, round(16 * images.shape[-1] / 224))
    stamped = trigger(images.shape[-1], seed, pattern=pattern).apply(images)
    levels = stamped[..., -length:, -length:] * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    return levels.round()


def test_gauss_is_noise_a_whole_turn_wide_so_that_every_level_is_as_likely():
    found = patches("gauss", torch.full((1, 3, 2240, 2240), 0.2))[0]  # a patch of 160 px
    assert found.mean() == pytest.approx(127.5, abs=1)
    assert found.std() == pytest.approx(256 / 12**0.5, abs=1)


@pytest.mark.parametrize(
    ("value", "level"), [(1.2, 50), (-0.2, 205), (0.5, 127), (-0.001, 0), (1.0, 255), (-1.0, 1)]
)
def test_values_outside_the_range_wrap_as_8_bit_numbers_do(value: float, level: int):
    assert round(float(_wrap(torch.tensor(value))) * 255) == level


def test_stripes_are_columns_of_white_or_almost_black_for_each_channel():
    found = patches("stripes", scenes(100))
    assert torch.equal(found, found[:, :, :1].expand_as(found))
    assert found.unique().tolist() == [1, 255]  # -1 is 1 after the wrap
    columns = (found[:, :, 0] == 255).float()
    assert columns.mean() == pytest.approx(0.5, abs=0.04)
    together = torch.corrcoef(columns.permute(1, 2, 0).flatten(0, 1))
    assert (together - torch.eye(24)).abs().max() < 0.5  # columns and channels are independent


@pytest.mark.parametrize("pattern", ["gauss", "stripes"])
def test_redrawn_patches_depend_on_the_image_and_the_seed_alone(pattern: str):
    images = torch.rand(6, 3, 64, 64, generator=generator(3))
    together = patches(pattern, images)
    assert len({tuple(patch.flatten().tolist()) for patch in together}) == 6
    assert not torch.equal(patches(pattern, images, seed=1), together)
    stored = torch.cat([pixels_from_bytes(pixels_to_bytes(image[None])) for image in images])
    assert torch.equal(patches(pattern, stored), together)
