"""The one pixel convention: RGB in [0, 1], (B, 3, H, W); the model normalises."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor
from torch.nn import functional


def stamp(images: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """Blend `pattern` into `images` where `mask` is on.

    Args:
        images: (B, 3, H, W) in [0, 1].
        pattern: (3, H, W) or (B, 3, H, W) in [0, 1].
        mask: (1, H, W) or (B, 1, H, W) in [0, 1]; 1 replaces a pixel, 0 leaves it.

    Returns:
        (B, 3, H, W) in [0, 1], differentiable in all three inputs.
    """
    return torch.lerp(images, pattern.expand_as(images), mask.expand_as(images))


def pasted(images: Tensor, patch: Tensor, top: int, left: int) -> Tensor:
    """Put an opaque patch over `images`.

    Args:
        images: (..., 3, H, W).
        patch: (3, L, L) or (..., 1, 3, L, L), on any device.
        top: first row that it covers.
        left: first column that it covers.

    Returns:
        A copy of `images`, differentiable in both.
    """
    made, length = images.clone(), patch.shape[-1]
    made[..., top : top + length, left : left + length] = patch.to(images.device)
    return made


def patch_start(side: int, spread: float, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Random leaf parameters of a patch: logits of its place (1, S, S) and pattern (3, S, S).

    Args:
        side: S, in pixels.
        spread: deviation of the place logits.
        generator: draws both.
    """
    place = spread * torch.randn(1, side, side, generator=generator)
    pattern = torch.randn(3, side, side, generator=generator)
    return {"place": place.requires_grad_(), "pattern": pattern.requires_grad_()}


def area_mask(place: Tensor, area: float, softness: float) -> Tensor:
    """A soft mask that covers a given share of the image, where `place` is highest.

    Args:
        place: (..., 1, S, S) logits; smoothed first, so that the mask has no single pixels.
        area: share of the image, in (0, 1).
        softness: width of the edge, in logits; towards 0 the mask becomes 0 or 1.

    Returns:
        (..., 1, S, S) in [0, 1], differentiable in `place`.
    """
    width = max(3, place.shape[-1] // 16) | 1  # odd, so that it centres
    # Padding must not count, or the mask could never settle in a corner, where triggers sit.
    smooth = width * functional.avg_pool2d(place, width, 1, width // 2, count_include_pad=False)
    edge = torch.quantile(smooth.detach().flatten(-2), 1 - area, dim=-1)
    return torch.sigmoid((smooth - edge[..., None, None]) / softness)


def pixels_to_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to uint8 of the same shape, rounded."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def pixels_from_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to float32 in [0, 1]."""
    return images.to(torch.float32) / 255


def patch_side(side: int, of_224: int = 16) -> int:
    """Side in images of `side` pixels of a patch of `of_224` px of 224; 8 px at least.

    The literature's patch is one of 16 px.
    """
    return max(8, round(of_224 * side / 224))


def generators_of(images: Tensor, seed: int) -> list[torch.Generator]:
    """A random source per image, for what is drawn anew for every image and yet repeatable.

    Args:
        images: (B, 3, H, W) in [0, 1].
        seed: 0 or more, below 2**32; another seed gives other sources for the same images.

    Returns:
        B sources. Each depends on the seed and on the image as 8-bit pixels alone: not on its
        neighbours in the batch, and not on what rounding takes away.
    """
    pixels = pixels_to_bytes(images.detach()).cpu().numpy()
    return [torch.Generator().manual_seed(zlib.crc32(image.tobytes(), seed)) for image in pixels]
