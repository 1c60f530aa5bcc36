"""WaNet: a fixed, barely visible warp of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.errors import UsageError
from clipguard.lab.roles import Attack, Pairs, Plan, dirty_label
from clipguard.model.pixels import generators_of, pixels_from_bytes, pixels_to_bytes
from clipguard.search.roles import Trigger

STRENGTHS = {"smooth": 0.5, "white": 1.0}
POINTS = 4


@dataclass(frozen=True, kw_only=True)
class WaNet:
    """Every pixel is read from a place a fraction of a pixel away, the same for all images.

    Attributes:
        field: `smooth` (4 by 4 random shifts, bicubic in between) or `white` (a random shift of
            its own for every pixel).
        strength: mean shift of the random points along an axis, in half pixels; None for that
            of the literature: 0.5, white 1.
        decoys: noise mode: images per poisoned one that are warped with noise on top of the
            warp and keep their captions; 2 in the original, none in the CLIP literature.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Nguyen and Tran, WaNet, ICLR 2021: shifts U(-1, 1) divided by their mean absolute value,
        k = 4 and s = 0.5; images are read at the grid + s · shift / S in coordinates [-1, 1],
        cut off at the border, bilinear with aligned corners. `white` as in CleanCLIP, BadCLIP and
        PAR (k = S, s = 1): 0.5 px in the mean and below 1 px; ASR 87.2 % on ViT-B/32 in RVPT.
        Adapted: shifts stay the same in pixels at every image size, as the formula has it (the
        authors use it from 28 to 64 px), instead of shrinking with the image to nothing; the
        noise of a decoy, U(-1, 1) / S for every pixel and axis, is drawn from the image.
    """

    ID: ClassVar[str] = "wanet/1"

    field: str = "smooth"
    strength: float | None = None
    decoys: float = 0.0
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown fields and shifts of nothing."""
        if self.field not in STRENGTHS:
            raise UsageError(f"wanet knows fields {', '.join(STRENGTHS)}; got {self.field!r}")
        if self.strength is not None and not self.strength > 0:
            raise UsageError(f"wanet wants a strength above 0, got {self.strength}")
        if not self.decoys >= 0:
            raise UsageError(f"wanet wants decoys of 0 or more, got {self.decoys}")

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; kept as `grid`, where each pixel is read from in [-1, 1]."""
        strength = STRENGTHS[self.field] if self.strength is None else self.strength
        points = POINTS if self.field == "smooth" else side
        drawn = torch.rand(1, 2, points, points, generator=generator) * 2 - 1
        shifts = functional.interpolate(
            drawn / drawn.abs().mean(), size=(side, side), mode="bicubic", align_corners=True
        )
        axis = torch.linspace(-1, 1, side)
        still = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))  # x, then y
        grid = (still + strength * shifts / side).clamp(-1, 1)[0].permute(1, 2, 0)
        moved = (grid - still.permute(1, 2, 0)).abs().mean().item() * (side - 1) / 2

        def apply(images: Tensor) -> Tensor:
            return _read(images, grid.expand(len(images), -1, -1, -1))

        return Trigger("wanet", apply, moved, "mean shift along an axis, in px", {"grid": grid})

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """See `PairedAttack.poisoned`: decoys follow the poisoned pairs."""
        made = dirty_label(pairs, plan, self.poison_rate)
        count = pairs.part(self.poison_rate)
        decoys = slice(count, count + round(count * self.decoys))
        made.images[decoys] = pixels_from_bytes(
            pixels_to_bytes(self.decoy(made.images[decoys], plan.trigger))
        )
        return made

    def decoy(self, images: Tensor, trigger: Trigger) -> Tensor:
        """(B, 3, S, S) in [0, 1] to the same: warped like with the trigger, but not quite.

        They teach the model that this warp is meant, and nothing that is merely like it.
        """
        grid = trigger.tensors["grid"]
        drawn = [torch.rand(grid.shape, generator=g) * 2 - 1 for g in generators_of(images, 0)]
        noise = torch.stack(drawn) if drawn else grid.new_empty(0, *grid.shape)
        return _read(images, (grid + noise / len(grid)).clamp(-1, 1))


def _read(images: Tensor, places: Tensor) -> Tensor:
    """(B, 3, S, S) images read at (B, S, S, 2) places, x and y in [-1, 1]."""
    read = functional.grid_sample(images, places.to(images.device), align_corners=True)
    return read.clamp(0, 1)


METHOD: type[Attack] = WaNet
