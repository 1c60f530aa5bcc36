"""Small opaque patches of free shape and place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.model.pixels import area_mask, patch_start, stamp
from clipguard.search.roles import Trigger, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A mask of fixed area with a pattern, both free.

    The mask starts large and shrinks to its final area, so that the search may first feel a
    trigger anywhere in the image and then has to give up every pixel that does not help. The
    area is a constraint and not a price: sizes of two models can be compared.

    Attributes:
        area: share of the image that the final mask covers, in (0, 1).
        first_area: share at the start of a search.
        spread: deviation of the first place logits; small, so that gradients choose the place
            and not the start.
        settle: part of the search after which the area is final, in (0, 1].
        step_size: Adam step, in logits.

    Source:
        Mask and pattern: Wang et al., Neural Cleanse, IEEE S&P 2019, section IV. The shrinking
        area instead of an L1 price is ours.
    """

    ID: ClassVar[str] = "patch/1"

    area: float = 0.02
    first_area: float = 0.5
    spread: float = 0.2
    settle: float = 0.6
    step_size: float = 0.15

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `TriggerFamily.start`."""
        return patch_start(side, self.spread, generator=generator)

    def stamped(self, parameters: Mapping[str, Tensor], images: Tensor, progress: float) -> Tensor:
        """See `TriggerFamily.stamped`."""
        mask, pattern = self._mask(parameters, progress), parameters["pattern"].sigmoid()
        return images + (pattern[:, None] - images) * mask[:, None]

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """See `TriggerFamily.trigger`."""
        mask, pattern = self._mask(parameters, progress), parameters["pattern"].sigmoid()
        return Trigger(
            family="patch",
            apply=lambda images: stamp(images, pattern, mask),
            size=mask.detach().mean().item(),
            unit="share of the image",
            tensors={"pattern": pattern.detach(), "mask": mask.detach()},
        )

    def _mask(self, parameters: Mapping[str, Tensor], progress: float) -> Tensor:
        done = min(1.0, progress / self.settle)
        area = self.first_area * (self.area / self.first_area) ** done
        return area_mask(parameters["place"], area, softness=1.0 - 0.95 * done)


METHOD: type[TriggerFamily] = Patch
