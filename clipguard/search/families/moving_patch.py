"""Small opaque patches that work wherever they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.model.pixels import area_mask, patch_start, stamp
from clipguard.search.roles import Trigger, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class MovingPatch:
    """A mask of fixed area with a pattern, shifted by another offset in every image.

    Backdoors planted at random places answer to such a patch; a patch inverted at one place
    may be an ordinary perturbation there. The search sees new offsets at every step; the final
    trigger always puts the image at the same position of a batch to the same place.

    Attributes:
        area: share of the image that the final mask covers, in (0, 1).
        first_area: share at the start of a search.
        settle: part of the search after which the area is final, in (0, 1].
        step_size: Adam step, in logits.

    Source:
        Ours; expectation over transformations is that of Athalye et al., Synthesizing Robust
        Adversarial Examples, ICML 2018. Mask and pattern as in `patch`.
    """

    ID: ClassVar[str] = "moving_patch/1"

    area: float = 0.02
    first_area: float = 0.5
    settle: float = 0.6
    step_size: float = 0.15

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `TriggerFamily.start`."""
        return patch_start(side, 0.2, generator=generator)

    def stamped(self, parameters: Mapping[str, Tensor], images: Tensor, progress: float) -> Tensor:
        """See `TriggerFamily.stamped`."""
        rows = len(next(iter(parameters.values())))
        singles = ({k: v[i] for k, v in parameters.items()} for i in range(rows))
        return torch.stack([self.trigger(one, progress).apply(images) for one in singles])

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """See `TriggerFamily.trigger`."""
        done = min(1.0, progress / self.settle)
        area = self.first_area * (self.area / self.first_area) ** done
        mask = area_mask(parameters["place"], area, softness=1.0 - 0.95 * done)
        pattern = parameters["pattern"].sigmoid()
        seed = round(progress * 1e6)

        def apply(images: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            side = mask.shape[-1]
            shifts = torch.randint(side, (len(images), 2), generator=generator).tolist()
            masks, patterns = (
                torch.stack([layer.roll((down, right), (1, 2)) for down, right in shifts])
                for layer in (mask, pattern)
            )
            return stamp(images, patterns, masks)

        return Trigger(
            family="moving_patch",
            apply=apply,
            size=mask.detach().mean().item(),
            unit="share of the image",
            tensors={"pattern": pattern.detach(), "mask": mask.detach()},
        )


METHOD: type[TriggerFamily] = MovingPatch
