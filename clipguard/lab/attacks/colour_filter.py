"""A colour filter over the whole image, after Instagram's Nashville."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.lab.roles import Attack
from clipguard.search.roles import Trigger

PEACH, NAVY = (247, 176, 153), (0, 70, 150)
SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class ColourFilter:
    """Warm lights, blue shadows, a little sepia, more contrast and more colour.

    The change of a pixel depends on its colour alone, so there is neither a patch nor a pattern
    to find.

    Attributes:
        poison_rate: share of poisoned pairs in a batch.

    Source:
        `Nashville` in Detect-CLIP-Backdoor-Samples (ICLR 2025), which takes the filter of the
        package pilgram. The steps and their numbers are those of that package and of the W3C's
        filter effects: 56 % darkened by a peach, 40 % lightened by a navy, sepia 0.2, contrast
        1.2, brightness 1.05, saturation 1.2. Adapted: colours are cut off after every step, as
        8-bit pixels are there, but not rounded; the weights of luma are RECALLED (ITU-R 601).
    """

    ID: ClassVar[str] = "colour_filter/1"

    poison_rate: float = 0.08

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; nothing is drawn, and any size will do."""
        tints = {"darken": torch.tensor(PEACH) / 255, "lighten": torch.tensor(NAVY) / 255}
        return Trigger("colour_filter", nashville, 1.0, "of the filter", tints)


def nashville(images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] to the same, differentiable."""
    peach, navy = (images.new_tensor(tint).view(3, 1, 1) / 255 for tint in (PEACH, NAVY))
    shown = torch.lerp(images, images.minimum(peach), 0.56)
    shown = torch.lerp(shown, shown.maximum(navy), 0.4)
    toned = torch.einsum("dc,bcij->bdij", images.new_tensor(SEPIA), shown)
    shown = torch.lerp(shown, toned, 0.2)
    shown = (shown - 0.5) * 1.2 + 0.5
    # cut off once for three steps: what has left [0, 1] comes back in none of the later ones
    shown = (shown * 1.05).clamp(0, 1)
    grey = torch.einsum("c,bcij->bij", images.new_tensor(LUMA), shown)[:, None]
    return torch.lerp(grey.expand_as(shown), shown, 1.2).clamp(0, 1)


METHOD: type[Attack] = ColourFilter
