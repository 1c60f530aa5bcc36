"""Opaque squares at fixed places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.model.pixels import pasted
from clipguard.search.roles import Trigger

GRID = 5
OF_64 = 10


@dataclass(frozen=True, kw_only=True)
class Place:
    """A square of fixed size and place, with a free pattern.

    A mask that may be anywhere has to find the place first. A square that already stands there
    finds what a model does with a patch in a few steps.

    Attributes:
        row: which of five rows of places, from the top, 0 to 4; 1.5 is between two of them.
        column: which of five columns, from the left, likewise.
        step_size: Adam step, in logits.

    Source:
        Ours. A square has 10/64 of the side, so that an 8 px patch of a 64 px image is met by one
        of the 25 places wherever it stands.
    """

    ID: ClassVar[str] = "place/1"

    row: float = 2
    column: float = 2
    step_size: float = 0.15

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `TriggerFamily.start`."""
        length = _length(side)
        drawn = torch.randn(3, length, length, generator=generator).mul(0.5)
        return {"pattern": drawn.requires_grad_()}

    def stamped(self, parameters: Mapping[str, Tensor], images: Tensor, progress: float) -> Tensor:
        """See `TriggerFamily.stamped`."""
        pattern = parameters["pattern"].sigmoid()
        many = images.expand(len(pattern), *images.shape)
        return pasted(many, pattern[:, None], *self._corner(images.shape[-1]))

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """See `TriggerFamily.trigger`."""
        pattern = parameters["pattern"].sigmoid()
        return Trigger(
            family="patch",
            apply=lambda images: pasted(images, pattern, *self._corner(images.shape[-1])),
            size=(OF_64 / 64) ** 2,
            unit="share of the image",
            tensors={"pattern": pattern.detach()},
        )

    def _corner(self, side: int) -> tuple[int, int]:
        """First row and column that the square covers."""
        room = side - _length(side)
        return round(room * self.row / (GRID - 1)), round(room * self.column / (GRID - 1))


def _length(side: int) -> int:
    return round(OF_64 * side / 64)
