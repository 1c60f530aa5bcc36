"""The one pixel convention: RGB in [0, 1], (B, 3, H, W); the model normalises."""

from __future__ import annotations

import torch
from torch import Tensor


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


def to_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to uint8 of the same shape, rounded."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def from_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to float32 in [0, 1]."""
    return images.to(torch.float32) / 255
