"""Square patches: where each attack puts its own, and that the rest of the image stays."""

from collections.abc import Callable

import pytest
import torch
from fakes import generator

from clipguard.lab.attacks.adaptive import Adaptive
from clipguard.lab.attacks.badencoder import BadEncoder
from clipguard.lab.attacks.maba import Maba
from clipguard.lab.attacks.trojvqa import TrojVqa
from clipguard.search.roles import Trigger

PATCH = torch.rand(3, 16, 16, generator=generator(1))


def white(patch: int) -> Callable[[int], Trigger]:
    return lambda side: BadEncoder(patch=patch).trigger(side, generator=generator())


def noise(side: int) -> Trigger:
    return Adaptive().trigger(side, generator=generator())


def centred(length: int) -> Callable[[int], Trigger]:
    return lambda side: TrojVqa().rebuild({"patch": PATCH[:, :length, :length]}, side)


def placed(length: int) -> Callable[[int], Trigger]:
    kept = {"pattern": PATCH[:, :length, :length], "place": torch.tensor([5, 40])}
    return lambda side: Maba().rebuild(kept, side)


@pytest.mark.parametrize(
    ("make", "side", "place", "patch"),
    [
        (white(50), 224, (173, 173), torch.ones(3, 50, 50)),  # a pixel of 224 from the corner
        (white(50), 64, (49, 49), torch.ones(3, 14, 14)),
        (white(16), 64, (55, 55), torch.ones(3, 8, 8)),
        (noise, 224, (208, 208), noise(224).tensors["patch"]),
        (noise, 64, (56, 56), noise(64).tensors["patch"]),
        (centred(16), 224, (104, 104), PATCH),
        (centred(8), 65, (28, 28), PATCH[:, :8, :8]),
        (placed(16), 224, (5, 40), PATCH),
        (placed(8), 64, (5, 40), PATCH[:, :8, :8]),
    ],
)
def test_a_patch_is_opaque_at_its_place_and_alone(
    make: Callable[[int], Trigger], side: int, place: tuple[int, int], patch: torch.Tensor
):
    (top, left), length, made = place, patch.shape[-1], make(side)
    images = torch.rand(2, 3, side, side, generator=generator())
    wanted = images.clone()
    wanted[..., top : top + length, left : left + length] = patch
    assert torch.equal(made.apply(images), wanted)
    assert made.size == pytest.approx((length / side) ** 2)
