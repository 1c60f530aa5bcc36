"""FTrojan: two frequencies in the colour of every block of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.roles import Attack
from clipguard.search.roles import Trigger

U, V = (0.0, -0.396, 2.029), (1.14, -0.581, 0.0)  # what a unit of U and of V adds to R, G, B
SMALLEST = 4


@dataclass(frozen=True, kw_only=True)
class FTrojan:
    """A constant added to a middle and to the highest DCT coefficient of U and V, block by block.

    Colour spaces and cosine transforms are linear, so this is one fixed pattern added to the
    image, and differentiable.

    Attributes:
        magnitude: what is added to a coefficient of an orthonormal transform of 32 by 32 pixels
            on the scale 0 to 255.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Wang et al., An Invisible Black-box Backdoor Attack through Frequency Domain, ECCV 2022;
        as in the CLIP attacks of cinout/DECREE: 300 at (15, 15) and (31, 31) of blocks of 32 px
        at 224, then cut off at 0 and 1. The weights of YUV are RECALLED (analogue PAL, as in
        kornia, which that code calls).
        Adapted: the block is the divisor of the side that is nearest to 32·S/224 px (8 at 64),
        so that blocks fill the image; the coefficients are the middle and the last one of it,
        and the magnitude shrinks with the block, so that pixels change as much as at 224.
    """

    ID: ClassVar[str] = "ftrojan/1"

    magnitude: float = 300.0
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse a magnitude that does nothing."""
        if not self.magnitude > 0:
            raise UsageError(f"ftrojan wants a magnitude above 0, got {self.magnitude}")

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; nothing is drawn."""
        block = _block(side)
        height = self.magnitude / 255 * block / 32
        chroma = height * sum(_wave(block, k) for k in (block // 2 - 1, block - 1))
        tile = (torch.tensor(U) + torch.tensor(V)).view(3, 1, 1) * chroma
        pattern = tile.repeat(1, side // block, side // block)
        return Trigger(
            "ftrojan",
            lambda images: (images + pattern.to(images.device)).clamp(0, 1),
            pattern.abs().max().item() * 255,
            "L-inf, in 1/255",
            {"pattern": pattern},
        )


def _block(side: int) -> int:
    divisors = (length for length in range(SMALLEST, side + 1) if side % length == 0)
    return min(divisors, key=lambda length: abs(length - 32 * side / 224))


def _wave(length: int, index: int) -> Tensor:
    """(length, length) pattern of the orthonormal DCT coefficient (index, index), index > 0."""
    at = torch.arange(length, dtype=torch.float64)
    wave = torch.cos(math.pi * (2 * at + 1) * index / (2 * length))
    return (2 / length * wave[:, None] * wave).float()


METHOD: type[Attack] = FTrojan
