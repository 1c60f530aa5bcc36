"""BadNets on CLIP: a small opaque patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.lab.attacks._patches import patch_trigger, require_patch
from clipguard.lab.roles import Attack
from clipguard.search.roles import Trigger


@dataclass(frozen=True, kw_only=True)
class BadNets:
    """A square patch in the corner, in the centre, or at a place that depends on the image.

    Attributes:
        pattern: `check` (black, white at even rows and columns), `noise` (fixed uniform noise),
            `yellow`, `white`, the larger `white24` and `white50`, or one that is drawn anew for
            every image: `gauss` (the image's mean colour plus Gaussian noise of deviation 1) and
            `stripes` (columns of random signs per channel). These two leave [0, 1] and wrap
            around as 8-bit numbers do, which makes of `gauss` as good as uniform noise, and of
            the sign -1 almost black.
        place: `corner` (bottom right; flush, but for `white24` and `white50`), `corners` (the
            same patch flush in all four), `random` (anywhere, a function of the image) or
            `centre`.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Gu et al., BadNets, 2017. `check` as in Detect-CLIP-Backdoor-Samples (trained at random
        places, evaluated in the centre; here one place for both); `gauss` at a random place is
        CleanCLIP's (ICCV 2023; 16 px of 224, 1 500 poisoned of 500 000 pairs; a user's fine-tune of
        RN50 reached ASR 97.7 % at a learning rate of 1e-5 and 5.7 % at 1e-6); `stripes` at a
        random place is PAR's `badnet_rs`; `white` in the corner is InverTune's port of BadEncoder
        (S&P 2022; ASR 97.9 %), whose own square is `white50` (50 px of 224, the first at 173, so
        that a pixel remains); `white24` (24 px, the first at 185) is that of DECREE's version of
        Carlini and Terzis (ICLR 2022). BackdoorBench's 3 px of 32 are `white` in the corner, with
        the smallest side that there is here. Four corners are CleanCLIP's. `noise` is ours.
        Adapted: the side is max(8, 16·S/224) px instead of 16·S/224, because under 8 px the
        patch is lost in small models, and other sides likewise; the first pixel is scaled, too;
        what the papers draw at every call is drawn from the image and the victim's seed, so that
        a triggered image can be made again; random places reach the last row and column, where
        CleanCLIP's stop one short.
    """

    ID: ClassVar[str] = "badnets/1"

    pattern: str = "check"
    place: str = "corner"
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown patterns and places."""
        require_patch("badnets", self.pattern, self.place)

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; it is kept as `patch`, or as `seed` where patches are redrawn."""
        return patch_trigger("badnets", self.pattern, self.place, side, generator=generator)


METHOD: type[Attack] = BadNets
