"""Images that are nearly the same: another size, another compression, a little brighter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 16
STRUCTURE = 4.0
"""Deviation of a thumbnail, in 1/255, below which an image shows too little to be compared."""
ALIKE = 0.995
"""Correlation of two thumbnails, from which on they are near copies."""
FAR = 12.0
"""Mean difference of two thumbnails, in 1/255, above which they are different images."""
ROWS = 256


def groups_of(images: Tensor) -> Tensor:
    """Which images belong together because they are nearly the same.

    Args:
        images: (N, 3, S, S) uint8.

    Returns:
        (N,) place of the first image of each one's group.

    Source:
        Ours. A perceptual hash of 8 x 8 bits takes any two skies for one; correlation of colour
        thumbnails does not, and for 2,000 images it is as cheap.
    """
    small = torch.cat([_thumbnails(part) for part in torch.split(images, ROWS)])
    centred = (small - small.mean(dim=2, keepdim=True)).flatten(1)  # shapes, whatever the tint
    shows = centred.std(dim=1) > STRUCTURE
    unit = functional.normalize(centred, dim=1)
    first = torch.arange(len(images))
    for start in range(0, len(images), ROWS):
        rows = slice(start, start + ROWS)
        near = unit[rows] @ unit.T > ALIKE
        near &= shows[rows, None] & shows[None]
        for row, other in near.nonzero().tolist():
            one = start + row
            close = (small[one] - small[other]).abs().mean() < FAR
            if other < one and close and first[one] == one:
                first[one] = first[other]
    return first


def _thumbnails(images: Tensor) -> Tensor:
    """(N, 3, 16 * 16) mean colours, 0 to 255."""
    return functional.adaptive_avg_pool2d(images.float(), SIDE).flatten(2)
