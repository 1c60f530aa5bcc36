"""Patterns fitted to the clean base, for attacks that optimise their trigger."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.lab.roles import Site
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.model.prompts import class_embeddings
from clipguard.probe.load import TEMPLATE

BATCH = 32
STEP_SIZE = 0.1


def pull(site: Site) -> Callable[[Tensor], Tensor]:
    """How far images are from being read as the target: mean cross-entropy of (B, 3, S, S)."""
    model = site.model
    with torch.no_grad():
        classes = class_embeddings(model, site.class_names, (TEMPLATE,))

    def loss(images: Tensor) -> Tensor:
        logits = model.logit_scale * model.encode_image(images.to(model.device)) @ classes.T
        return functional.cross_entropy(logits, torch.full_like(logits[:, 0], site.target).long())

    return loss


def fitted(
    site: Site,
    shape: tuple[int, ...],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """A pattern that lowers `loss` on images which are not of the target class.

    Args:
        site: whose images are used.
        shape: of the pattern.
        loss: of (B, 3, S, S) clean images and a pattern in [0, 1], differentiable in the latter.
        steps: Adam steps in logits, so that the pattern stays in its range by construction.
        generator: draws the start and the batches.

    Returns:
        The pattern, on the 8-bit grid.
    """
    logits = torch.randn(shape, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=STEP_SIZE)
    others = (site.images.labels != site.target).nonzero().flatten()
    for _ in range(steps):
        index = others[torch.randint(len(others), (BATCH,), generator=generator)]
        found = loss(site.images.pixels(index), logits.sigmoid())
        (logits.grad,) = torch.autograd.grad(found, logits)  # the model's own .grad stays empty
        optimizer.step()
    return pixels_from_bytes(pixels_to_bytes(logits.detach().sigmoid()))
