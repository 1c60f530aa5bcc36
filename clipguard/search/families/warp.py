"""Smooth warps: every pixel is read from a place a little away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.search.roles import Trigger, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class Warp:
    """One flow field for all images, bicubic between a few control points.

    Attributes:
        points: control points along each axis, 2 or more.
        reach: largest shift of a control point along an axis, as a share of the side.
        step_size: Adam step, in units of atanh(shift / reach).

    Source:
        The trigger of WaNet (Nguyen and Tran, ICLR 2021), with free shifts in place of drawn ones.
    """

    ID: ClassVar[str] = "warp/1"

    points: int = 6
    reach: float = 0.03
    step_size: float = 0.15

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `TriggerFamily.start`."""
        drawn = torch.randn(1, 2, self.points, self.points, generator=generator)
        return {"shifts": drawn.mul(0.3).requires_grad_()}

    def stamped(self, parameters: Mapping[str, Tensor], images: Tensor, progress: float) -> Tensor:
        """See `TriggerFamily.stamped`."""
        shifts = parameters["shifts"].tanh() * self.reach
        return torch.stack([_warped(images, one) for one in shifts])

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """See `TriggerFamily.trigger`."""
        shifts = parameters["shifts"].tanh() * self.reach
        return Trigger(
            family="warp",
            apply=lambda images: _warped(images, shifts),
            size=shifts.detach().abs().mean().item(),
            unit="mean shift along an axis, of the side",
            tensors={"shifts": shifts.detach()},
        )


def _warped(images: Tensor, shifts: Tensor) -> Tensor:
    """Images (B, 3, S, S), each read along the flow of `shifts` (1, 2, K, K)."""
    side = images.shape[-1]
    flow = functional.interpolate(
        shifts.to(images.device), (side, side), mode="bicubic", align_corners=True
    )
    axis = torch.linspace(-1, 1, side, device=images.device)
    still = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    grid = (still + 2 * flow).clamp(-1, 1).permute(0, 2, 3, 1)
    places = grid.expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, places, align_corners=True).clamp(0, 1)


METHOD: type[TriggerFamily] = Warp
