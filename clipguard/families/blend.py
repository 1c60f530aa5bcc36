"""A picture laid over the whole image, faintly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguard.pixels import stamp
from clipguard.types import Trigger, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class Blend:
    """One free picture, blended into every image at a fixed opacity.

    Attributes:
        opacity: share of the picture in the result, in (0, 1).
        step_size: Adam step, in logits of the picture's pixels.

    Source:
        The trigger of Chen et al., Targeted Backdoor Attacks on Deep Learning Systems Using Data
        Poisoning, 2017; the search is that of `patch` with a mask that is fixed.
    """

    opacity: float = 0.05
    step_size: float = 0.3

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `TriggerFamily.start`."""
        return {"picture": torch.randn(3, side, side, generator=generator).requires_grad_()}

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """See `TriggerFamily.trigger`."""
        picture = parameters["picture"].sigmoid()
        mask = torch.full_like(picture[:1].detach(), self.opacity)
        return Trigger(
            family="blend",
            apply=lambda images: stamp(images, picture, mask),
            size=self.opacity,
            unit="opacity",
            tensors={"picture": picture.detach()},
        )


METHOD: type[TriggerFamily] = Blend
