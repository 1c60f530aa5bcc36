"""A patch in the centre of the image that is fitted to a model before anything is poisoned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clipguard.lab.roles import Site
from clipguard.model.pixels import pasted, patch_side, pixels_from_bytes, pixels_to_bytes
from clipguard.search.roles import Trigger

BATCH = 64
STEP_SIZE = 0.03

Loss = Callable[[Tensor, Tensor], Tensor]
"""Loss of stamped embeddings (B, D) and the indices (B,) of their images at the site."""


def centred(family: str, patch: Tensor, side: int) -> Trigger:
    """An opaque (3, L, L) patch in the middle of images of `side` pixels."""
    length = patch.shape[-1]
    first = (side - length) // 2

    def apply(images: Tensor) -> Tensor:
        return pasted(images, patch, first, first)

    size = length**2 / side**2
    return Trigger(family, apply, size, "share of the image", {"patch": patch.detach()})


def fitted(
    site: Site, loss: Loss, *, steps: int, generator: torch.Generator, wide: int = 16
) -> Tensor:
    """The patch with the lowest loss on images that are not of the target class.

    Args:
        site: base model and images; the model's weights and their `.grad` stay as they are.
        loss: of the embeddings of stamped images.
        steps: Adam steps, 64 images each.
        generator: draws the start and the batches.
        wide: W, its side in px of 224.

    Returns:
        (3, L, L) in [0, 1] on the 8-bit grid, L = max(8, W·S/224) px.

    Source:
        The optimiser of BadCLIP (CVPR 2024): start from N(0.5, 0.25²), Adam, cut off at 0 and 1.
        There 7 800 steps of 1e-3; here fewer of 0.03, which reach as far.
    """
    side = site.model.image_size
    length = patch_side(side, wide)
    patch = (0.5 + 0.25 * torch.randn(3, length, length, generator=generator)).clamp(0, 1)
    patch.requires_grad_()
    optimizer = torch.optim.Adam([patch], lr=STEP_SIZE)
    others = (site.images.labels != site.target).nonzero().flatten()
    for _ in range(steps):
        index = others[torch.randperm(len(others), generator=generator)[:BATCH]]
        stamped = centred("", patch, side).apply(site.images.pixels(index))
        features = site.model.encode_image(stamped.to(site.model.device))
        (patch.grad,) = torch.autograd.grad(loss(features, index), [patch])
        optimizer.step()
        with torch.no_grad():
            patch.clamp_(0, 1)
    return pixels_from_bytes(pixels_to_bytes(patch.detach()))
