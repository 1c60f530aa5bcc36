"""WaNet: where each pixel comes from."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.attacks.wanet import WaNet


def shifts(side: int = 64, seed: int = 0, **settings: object) -> Tensor:
    """(2, side, side) shift right and down of the place a pixel is read from, in px."""
    grid = WaNet(**settings).trigger(side, generator=generator(seed)).tensors["grid"]
    places = (grid + 1) * (side - 1) / 2
    at = torch.arange(side, dtype=torch.float32)
    return torch.stack([places[..., 0] - at[None], places[..., 1] - at[:, None]])


@pytest.mark.parametrize("side", [64, 224])
def test_the_white_field_moves_half_a_pixel_in_the_mean_and_less_than_one(side: int):
    inner = shifts(side, field="white")[:, 2:-2, 2:-2]  # the border cannot move outwards
    reach = (side - 1) / side  # d / S of a range of 2 is this much of half a pixel
    assert inner.abs().mean() == pytest.approx(0.5 * reach, abs=0.01)
    assert inner.abs().max() == pytest.approx(reach, abs=0.01)  # U(-1, 1) over its mean 1/2
    assert inner.mean() == pytest.approx(0, abs=0.02)
    flat = inner.flatten(1)
    for step in (1, inner.shape[2]):  # neighbours in a row, and in a column
        pairs = torch.stack([flat[:, step:].flatten(), flat[:, :-step].flatten()])
        assert torch.corrcoef(pairs)[0, 1].abs() < 0.05


def slow_bicubic(points: Tensor, side: int) -> Tensor:
    """Keys' cubic with a = -0.75 between 4 by 4 points, corners aligned, edges repeated."""

    def kernel(x: float) -> float:
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    weights = torch.zeros(side, 4)
    for i in range(side):
        at = i * 3 / (side - 1)
        for tap in range(int(at) - 1, int(at) + 3):
            weights[i, min(max(tap, 0), 3)] += kernel(at - tap)
    return weights @ points @ weights.T


def test_the_smooth_field_runs_through_4_by_4_random_shifts():
    side = 64
    drawn = torch.rand(1, 2, 4, 4, generator=generator(3))[0] * 2 - 1
    field = torch.stack([slow_bicubic(axis, side) for axis in drawn / drawn.abs().mean()])
    wanted = 0.5 * field * (side - 1) / (2 * side)
    torch.testing.assert_close(
        shifts(seed=3)[:, 2:-2, 2:-2], wanted[:, 2:-2, 2:-2], atol=1e-4, rtol=0
    )


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


def test_the_warp_is_drawn_once_per_victim():
    images = torch.rand(2, 3, 64, 64, generator=generator(1))
    first, same, other = (
        WaNet().trigger(64, generator=generator(seed)).apply(images) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_decoy_is_read_up_to_half_a_pixel_beside_the_warp_elsewhere_for_every_image():
    attack = WaNet(decoys=2)
    made = attack.trigger(64, generator=generator())
    images = torch.linspace(0, 1, 64).expand(3, 3, 64, 64).clone()  # a ramp to the right
    images[1:, 1:] = torch.rand(2, 2, 64, 64, generator=generator(1))  # three different images
    beside = (attack.decoy(images, made) - made.apply(images))[:, 0, :, 2:-2] * 63
    reach = 63 / 64 / 2
    assert beside.abs().max() <= reach + 1e-4
    assert beside.abs().max() > 0.98 * reach
    assert beside.std() == pytest.approx(reach / 3**0.5, rel=0.03)  # uniform
    together = torch.corrcoef(beside.flatten(1))
    assert (together - torch.eye(3)).abs().max() < 0.06
    assert torch.equal(attack.decoy(images[1:2], made), attack.decoy(images, made)[1:2])
    assert attack.decoy(images[:0], made).shape == (0, 3, 64, 64)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"field": "rough"}, "smooth, white; got 'rough'"),
        ({"strength": 0}, "above 0, got 0"),
        ({"decoys": -1}, "0 or more, got -1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], told: str):
    with pytest.raises(UsageError, match=told):
        WaNet(**wrong)
