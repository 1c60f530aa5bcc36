"""BadNets on CLIP: a small opaque patch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.pixels import generators_of, stamp, to_bytes
from clipguard.types import Attack, Trigger

REDRAWN = ("gauss", "stripes")
PATTERNS = ("check", "noise", "yellow", "white", *REDRAWN)
PLACES = ("corner", "random", "centre")


@dataclass(frozen=True, kw_only=True)
class BadNets:
    """A square patch in the corner, in the centre, or at a place that depends on the image.

    Attributes:
        pattern: `check` (black, white at even rows and columns), `noise` (fixed uniform noise),
            `yellow`, `white`, or one that is drawn anew for every image: `gauss` (the image's
            mean colour plus Gaussian noise of deviation 1) and `stripes` (columns of random
            signs per channel). These two leave [0, 1] and wrap around as 8-bit numbers do, which
            makes of `gauss` as good as uniform noise, and of the sign -1 almost black.
        place: `corner` (bottom right, flush), `random` (anywhere, a function of the image) or
            `centre`.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Gu et al., BadNets, 2017. `check` as in Detect-CLIP-Backdoor-Samples (trained at random
        places, evaluated in the centre; here one place for both); `gauss` at a random place is
        CleanCLIP's (ICCV 2023; 16 px of 224, 1 500 poisoned of 500 000 pairs; a user's fine-tune of
        RN50 reached ASR 97.7 % at a learning rate of 1e-5 and 5.7 % at 1e-6); `stripes` at a
        random place is PAR's `badnet_rs`; `white` in the corner is InverTune's port of BadEncoder
        (S&P 2022; ASR 97.9 %). `noise` is ours.
        Adapted: the side is max(8, 16·S/224) px instead of 16·S/224, because under 8 px the
        patch is lost in small models; what the papers draw at every call is drawn from the
        image and the victim's seed, so that a triggered image can be made again; random places
        reach the last row and column, where CleanCLIP's stop one short.
    """

    pattern: str = "check"
    place: str = "corner"
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown patterns and places."""
        if self.pattern not in PATTERNS or self.place not in PLACES:
            raise UsageError(
                f"badnets knows patterns {', '.join(PATTERNS)} and places {', '.join(PLACES)}; "
                f"got {self.pattern!r} at {self.place!r}"
            )

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; it is kept as `patch`, or as `seed` where patches are redrawn."""
        length = max(8, round(16 * side / 224))
        if self.pattern in REDRAWN:
            kept = {"seed": torch.randint(2**31, (1,), generator=generator)}
        else:
            kept = {"patch": self._fixed(length, generator)}

        def apply(images: Tensor) -> Tensor:
            if self.pattern in REDRAWN:
                patches = self._redrawn(images, length, int(kept["seed"]))
            else:
                patches = kept["patch"].expand(len(images), -1, -1, -1)
            canvas = torch.zeros_like(images)
            mask = torch.zeros_like(images[:, :1])
            for row, (top, left) in enumerate(self._offsets(images, side - length).tolist()):
                canvas[row, :, top : top + length, left : left + length] = patches[row]
                mask[row, :, top : top + length, left : left + length] = 1
            return stamp(images, canvas, mask)

        return Trigger("badnets", apply, length**2 / side**2, "share of the image", kept)

    def _offsets(self, images: Tensor, span: int) -> Tensor:
        """(B, 2) top and left of the patch, in [0, span]."""
        if self.place == "random":
            return _places(images, span)
        return torch.full((len(images), 2), span if self.place == "corner" else span // 2)

    def _fixed(self, length: int, generator: torch.Generator) -> Tensor:
        if self.pattern == "noise":
            return (torch.rand(3, length, length, generator=generator) * 255).round() / 255
        if self.pattern == "yellow":
            return torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1).repeat(1, length, length)
        if self.pattern == "white":
            return torch.ones(3, length, length)
        check = torch.zeros(3, length, length)
        check[:, ::2, ::2] = 1
        return check

    def _redrawn(self, images: Tensor, length: int, seed: int) -> Tensor:
        """(B, 3, length, length) on the 8-bit grid, one patch per image."""
        sources = generators_of(images, seed)
        if self.pattern == "stripes":
            shape = (3, 1, length)
            signs = [2 * torch.randint(2, shape, generator=source) - 1 for source in sources]
            return _wrap(torch.stack(signs)).expand(-1, -1, length, -1)
        noise = torch.stack([torch.randn(3, length, length, generator=s) for s in sources])
        # sums of whole numbers are exact, so that a mean does not depend on the batch
        means = to_bytes(images.detach()).double().mean(dim=(2, 3), keepdim=True) / 255
        return _wrap(means.float().cpu() + noise)


def _wrap(values: Tensor) -> Tensor:
    """What 8-bit pixels make of values outside [0, 1]: cut to whole levels, modulo 256."""
    return (values * 255).trunc().remainder(256) / 255


def _places(images: Tensor, span: int) -> Tensor:
    """(B, 2) offsets in [0, span]: pseudo-random, yet the same for the same image."""
    halves = images.double().sum(dim=1).flatten(1).chunk(2, dim=1)
    mixed = torch.stack([half.sum(dim=1) * 7919.37 for half in halves], dim=1)
    return ((mixed - mixed.floor()) * (span + 1)).long()


METHOD: type[Attack] = BadNets
