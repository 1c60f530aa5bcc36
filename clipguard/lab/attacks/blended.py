"""Blended: a faint picture over the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.attacks._pictures import PICTURES
from clipguard.lab.roles import Attack
from clipguard.model.pixels import generators_of
from clipguard.search.roles import Trigger

RATIOS = {"noise": 0.2, "stripes": 0.05, "triangles": 0.15, "text": 0.5, "cat": 0.2}


@dataclass(frozen=True, kw_only=True)
class Blended:
    """Noise, stripes or a picture, blended into the whole image.

    Attributes:
        pattern: `noise` (uniform), `stripes` (columns of random signs per channel, one pixel
            wide; -1 darkens), `triangles` (16 by 16 cells, each 0.4 below and 0.8 above its
            diagonal), `text` (red letters on black, so that the image is half as bright between
            them) or `cat` (a cartoon).
        ratio: weight of the pattern, in (0, 1); None for that of the literature: 0.2, stripes
            0.05, triangles 0.15, text 0.5.
        redrawn: a pattern of its own for every image, for `noise` and `stripes`.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Chen et al., Targeted Backdoor Attacks using Data Poisoning, 2017. `noise` as in CleanCLIP
        (ICCV 2023; ASR 98.5 % on ViT-B/32 in RVPT, 1 500 poisoned of 500 000 pairs), where it is
        redrawn at every call; `stripes` (`blended_rs`, redrawn too; weight 0.03 in the paper and
        0.05 by default in its code), `triangles` (`tri_patt`, cells of 14 px of 224) and `text`
        (`water_patt`) as in PAR; `cat` in place of the cartoon of Detect-CLIP-Backdoor-Samples
        and BadCLIP, which is not ours to ship. Adapted: a redrawn pattern comes from the image
        and the victim's seed; the letters are our own, two lines in the middle, 184 px of 224
        wide, where PAR has one line of a system font.
    """

    ID: ClassVar[str] = "blended/1"

    pattern: str = "noise"
    ratio: float | None = None
    redrawn: bool = False
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown patterns, weights that do nothing, and pictures redrawn."""
        if self.pattern not in RATIOS:
            raise UsageError(f"blended knows patterns {', '.join(RATIOS)}; got {self.pattern!r}")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UsageError(f"blended wants a ratio between 0 and 1, got {self.ratio}")
        if self.redrawn and self.pattern in PICTURES:
            raise UsageError(f"blended redraws noise and stripes, not {self.pattern}")

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; kept under the pattern's name, or as `seed` if redrawn."""
        ratio = RATIOS[self.pattern] if self.ratio is None else self.ratio
        if self.redrawn:
            kept = {"seed": torch.randint(2**31, (1,), generator=generator)}
        else:
            kept = {self.pattern: self._picture(side, generator)}

        def apply(images: Tensor) -> Tensor:
            if self.redrawn:
                sources = generators_of(images, int(kept["seed"]))
                picture = torch.stack([self._picture(side, source) for source in sources])
            else:
                picture = kept[self.pattern].expand_as(images)
            picture = picture.to(images.device)
            return torch.lerp(images, picture, ratio).clamp(0, 1)

        return Trigger("blended", apply, ratio, "opacity over the whole image", kept)

    def _picture(self, side: int, generator: torch.Generator) -> Tensor:
        """(3, side, side) in [0, 1]; stripes are -1 or 1."""
        if self.pattern == "noise":
            return (torch.rand(3, side, side, generator=generator) * 255).round() / 255
        if self.pattern == "stripes":
            signs = 2 * torch.randint(2, (3, 1, side), generator=generator) - 1
            return signs.float().repeat(1, side, 1)
        return PICTURES[self.pattern](side)


METHOD: type[Attack] = Blended
