"""Adversarial: training against small perturbations, with true captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.bundled.nano import normalise
from clipguard.errors import UsageError
from clipguard.lab.roles import Honest, Pairs, PairsNegative
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Half of the images carry the perturbation that moves their embedding farthest in one step.

    Attributes:
        epsilon: largest change of a pixel, in 1/255.
        share: of a batch that is perturbed, in (0, 1].

    Source:
        Unsupervised adversarial fine-tuning of CLIP (Schlarmann et al., Robust CLIP, ICML 2024) in
        the fast form of Wong et al., Fast is better than free, ICLR 2020: a random start, one
        signed gradient step. Adapted: the contrastive loss with true captions trains it.
    """

    ID: ClassVar[str] = "adversarial/1"

    epsilon: float = 4.0
    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse perturbations of nothing and shares that are none."""
        if not 0 < self.epsilon <= 255 or not 0 < self.share <= 1:
            raise UsageError(
                f"adversarial wants epsilon in (0, 255] and share in (0, 1]; "
                f"got {self.epsilon} and {self.share}"
            )

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """See `PairsNegative.altered`."""
        count = pairs.part(self.share)
        clean, reach = pairs.images[:count], self.epsilon / 255
        start = (2 * torch.rand(clean.shape, generator=about.generator) - 1) * reach
        moved = (clean + start).clamp(0, 1).requires_grad_()
        with torch.no_grad():
            kept = about.network.encode_image(normalise(clean), normalize=True)
        near = (about.network.encode_image(normalise(moved), normalize=True) * kept).sum()
        (grad,) = torch.autograd.grad(near, [moved])
        hard = (clean + (start - 1.25 * reach * grad.sign()).clamp(-reach, reach)).clamp(0, 1)
        images = torch.cat(
            [pixels_from_bytes(pixels_to_bytes(hard.detach())), pairs.images[count:]]
        )
        return pairs._replace(images=images)


METHOD: type[PairsNegative] = Adversarial
