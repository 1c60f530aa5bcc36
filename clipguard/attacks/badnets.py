"""BadNets on CLIP: a small opaque patch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.pixels import stamp
from clipguard.types import Attack, Trigger


@dataclass(frozen=True, kw_only=True)
class BadNets:
    """A square patch at a fixed corner or at a place that depends on the image.

    Attributes:
        pattern: `check` (black, white at even rows and columns), `noise` (fixed uniform noise)
            or `yellow`.
        place: `corner` (bottom right, flush) or `random` (anywhere, a function of the image).
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Gu et al., BadNets, 2017; patterns and places as in CleanCLIP (ICCV 2023) and
        Detect-CLIP-Backdoor-Samples. The side is max(8, 16·S/224) px instead of 16·S/224,
        because under 8 px the patch is lost in small models.
    """

    pattern: str = "check"
    place: str = "corner"
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown patterns and places."""
        if self.pattern not in ("check", "noise", "yellow") or self.place not in (
            "corner",
            "random",
        ):
            raise UsageError(
                f"badnets knows patterns check, noise, yellow and places corner, random; "
                f"got {self.pattern!r} at {self.place!r}"
            )

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`."""
        length = max(8, round(16 * side / 224))
        patch = self._pattern(length, generator)

        def apply(images: Tensor) -> Tensor:
            span = side - length
            if self.place == "corner":
                offsets = torch.full((len(images), 2), span)
            else:
                offsets = _places(images, span)
            canvas = torch.zeros_like(images)
            mask = torch.zeros_like(images[:, :1])
            for row, (top, left) in enumerate(offsets.tolist()):
                canvas[row, :, top : top + length, left : left + length] = patch
                mask[row, :, top : top + length, left : left + length] = 1
            return stamp(images, canvas, mask)

        size = length**2 / side**2
        return Trigger("badnets", apply, size, "share of the image", {"patch": patch})

    def _pattern(self, length: int, generator: torch.Generator) -> Tensor:
        if self.pattern == "noise":
            return (torch.rand(3, length, length, generator=generator) * 255).round() / 255
        if self.pattern == "yellow":
            return torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1).repeat(1, length, length)
        check = torch.zeros(3, length, length)
        check[:, ::2, ::2] = 1
        return check


def _places(images: Tensor, span: int) -> Tensor:
    """(B, 2) offsets in [0, span]: pseudo-random, yet the same for the same image."""
    halves = images.double().sum(dim=1).flatten(1).chunk(2, dim=1)
    mixed = torch.stack([half.sum(dim=1) * 7919.37 for half in halves], dim=1)
    return ((mixed - mixed.floor()) * (span + 1)).long()


METHOD: type[Attack] = BadNets
