"""Opaque square patches, fixed or drawn anew for every image, at fixed or random places."""

from __future__ import annotations

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.model.pixels import generators_of, patch_side, pixels_to_bytes, stamp
from clipguard.search.roles import Trigger

REDRAWN = ("gauss", "stripes")
SIZED = {"white24": (24, 185), "white50": (50, 173)}  # side, and top and left in the corner
PATTERNS = ("check", "noise", "yellow", "white", *SIZED, *REDRAWN)
PLACES = ("corner", "corners", "random", "centre")


def require_patch(attack: str, pattern: str, place: str) -> None:
    """Refuse unknown patterns and places.

    Raises:
        UsageError: unknown; the message lists what exists.
    """
    if pattern not in PATTERNS or place not in PLACES:
        raise UsageError(
            f"{attack} knows patterns {', '.join(PATTERNS)} and places {', '.join(PLACES)}; "
            f"got {pattern!r} at {place!r}"
        )


def patch_trigger(
    attack: str, pattern: str, place: str, side: int, *, generator: torch.Generator
) -> Trigger:
    """A patch of max(8, L·S/224) px; kept as `patch`, or as `seed` where it is redrawn.

    L is 16 but for patterns with their size in the name, which also keep their distance from
    the corner.

    Args:
        attack: name of the attack.
        pattern: one of `PATTERNS`.
        place: one of `PLACES`.
        side: S, in pixels.
        generator: draws the patch, or the seed of all patches.
    """
    wide, first = SIZED.get(pattern, (16, 224))
    length = patch_side(side, wide)
    span = side - length
    near = min(span, round(first * side / 224))
    if pattern in REDRAWN:
        kept = {"seed": torch.randint(2**31, (1,), generator=generator)}
    else:
        kept = {"patch": _fixed(pattern, length, generator)}

    def apply(images: Tensor) -> Tensor:
        if pattern in REDRAWN:
            patches = _redrawn(pattern, images, length, int(kept["seed"]))
        else:
            patches = kept["patch"].expand(len(images), -1, -1, -1)
        canvas = torch.zeros_like(images)
        mask = torch.zeros_like(images[:, :1])
        if place == "random":
            offsets = _anywhere(images, span).tolist()
        else:
            offsets = [_fixed_places(place, near, span)] * len(images)
        for row, places in enumerate(offsets):
            for top, left in places:
                canvas[row, :, top : top + length, left : left + length] = patches[row]
                mask[row, :, top : top + length, left : left + length] = 1
        return stamp(images, canvas, mask)

    copies = 4 if place == "corners" else 1
    return Trigger(attack, apply, copies * length**2 / side**2, "share of the image", kept)


def _fixed_places(place: str, near: int, span: int) -> list[tuple[int, int]]:
    """Top and left of each copy of the patch."""
    if place == "corners":
        return [(top, left) for top in (0, span) for left in (0, span)]
    first = near if place == "corner" else span // 2
    return [(first, first)]


def _anywhere(images: Tensor, span: int) -> Tensor:
    """(B, 1, 2) top and left of the patch, in [0, span]; they depend on the image alone."""
    halves = images.double().sum(dim=1).flatten(1).chunk(2, dim=1)
    mixed = torch.stack([half.sum(dim=1) * 7919.37 for half in halves], dim=1)
    return ((mixed - mixed.floor()) * (span + 1)).long()[:, None]


def _fixed(pattern: str, length: int, generator: torch.Generator) -> Tensor:
    if pattern == "noise":
        return (torch.rand(3, length, length, generator=generator) * 255).round() / 255
    if pattern == "yellow":
        return torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1).repeat(1, length, length)
    if pattern == "white" or pattern in SIZED:
        return torch.ones(3, length, length)
    check = torch.zeros(3, length, length)
    check[:, ::2, ::2] = 1
    return check


def _redrawn(pattern: str, images: Tensor, length: int, seed: int) -> Tensor:
    """(B, 3, length, length) on the 8-bit grid, one patch per image."""
    sources = generators_of(images, seed)
    if pattern == "stripes":
        shape = (3, 1, length)
        signs = [2 * torch.randint(2, shape, generator=source) - 1 for source in sources]
        return _wrap(torch.stack(signs)).expand(-1, -1, length, -1)
    noise = torch.stack([torch.randn(3, length, length, generator=s) for s in sources])
    # sums of whole numbers are exact, so that a mean does not depend on the batch
    means = pixels_to_bytes(images.detach()).double().mean(dim=(2, 3), keepdim=True) / 255
    return _wrap(means.float().cpu() + noise)


def _wrap(values: Tensor) -> Tensor:
    """What 8-bit pixels make of values outside [0, 1]: cut to whole levels, modulo 256."""
    return (values * 255).trunc().remainder(256) / 255
