"""WaNet: where each pixel comes from."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.lab.attacks.wanet import WaNet


def shifts(side: int = 64, seed: int = 0, **settings: object) -> Tensor:
    """(2, side, side) shift right and down of the place a pixel is read from, in px."""
    grid = WaNet(**settings).trigger(side, generator=generator(seed)).tensors["grid"]
    places = (grid + 1) * (side - 1) / 2
    at = torch.arange(side, dtype=torch.float32)
    return torch.stack([places[..., 0] - at[None], places[..., 1] - at[:, None]])


def test_the_white_field_moves_half_a_pixel_in_the_mean_and_less_than_one():
    inner = shifts(224, field="white")[:, 2:-2, 2:-2]  # the border cannot move outwards
    reach = 223 / 224  # d / S of a range of 2 is this much of half a pixel
    assert inner.abs().mean() == pytest.approx(0.5 * reach, abs=0.01)
    assert inner.abs().max() == pytest.approx(reach, abs=0.01)  # U(-1, 1) over its mean 1/2
    flat = inner.flatten()
    neighbours = torch.stack([flat[1:], flat[:-1]])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.05


def test_the_smooth_field_runs_through_4_by_4_random_shifts():
    drawn = torch.rand(1, 2, 4, 4, generator=generator(3))[0] * 2 - 1
    wanted = 0.5 * (drawn / drawn.abs().mean()) * 63 / (2 * 64)
    found = shifts(64, seed=3)[:, ::21, ::21]  # where the points are; the border is cut off
    torch.testing.assert_close(found[:, 1:3, 1:3], wanted[:, 1:3, 1:3], atol=1e-4, rtol=0)


def test_strength_is_in_half_pixels_and_the_size_is_what_really_moved():
    for strength in (0.5, 1.0, 2.0):
        inner = shifts(strength=strength)[:, 3:-3, 3:-3]
        torch.testing.assert_close(inner, 2 * strength * shifts()[:, 3:-3, 3:-3], atol=1e-4, rtol=0)
    made = WaNet().trigger(64, generator=generator())
    assert made.size == pytest.approx(shifts().abs().mean().item(), rel=1e-3)


@pytest.mark.parametrize("field", ["smooth", "white"])
def test_no_pixel_is_read_from_outside_the_image(field: str):
    made = WaNet(field=field, strength=8.0).trigger(32, generator=generator())
    assert made.tensors["grid"].abs().max() == 1


@pytest.mark.parametrize("field", ["smooth", "white"])
def test_a_ramp_tells_where_each_pixel_was_read(field: str):
    ramp = torch.linspace(0, 1, 64)
    images = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.ones(64, 64)])
    shown = WaNet(field=field).trigger(64, generator=generator()).apply(images[None])[0]
    moved = shifts(field=field)
    torch.testing.assert_close((shown[0] - images[0]) * 63, moved[0], atol=1e-4, rtol=0)
    torch.testing.assert_close((shown[1] - images[1]) * 63, moved[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(shown[2], images[2])


def test_a_decoy_is_read_up_to_half_a_pixel_beside_the_warp_elsewhere_for_every_image():
    attack = WaNet(decoys=2)
    made = attack.trigger(64, generator=generator())
    images = torch.linspace(0, 1, 64).expand(3, 3, 64, 64).clone()  # a ramp to the right
    images[1:, 1:] = torch.rand(2, 2, 64, 64, generator=generator(1))  # three different images
    beside = (attack.decoy(images, made) - made.apply(images))[:, 0, :, 2:-2] * 63
    reach = 63 / 64 / 2
    assert beside.abs().max() <= reach + 1e-4
    assert beside.abs().max() > 0.98 * reach
    together = torch.corrcoef(beside.flatten(1))
    assert (together - torch.eye(3)).abs().max() < 0.06
    assert torch.equal(attack.decoy(images[1:2], made), attack.decoy(images, made)[1:2])
    assert attack.decoy(images[:0], made).shape == (0, 3, 64, 64)
