"""SIBA: a faint perturbation on a tenth of the pixels, fitted to the clean base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.bundled.nano import TEMPLATES
from clipguard.errors import UsageError
from clipguard.lab.roles import OptimisedAttack, Site
from clipguard.model.prompts import class_embeddings
from clipguard.search.roles import Trigger

ROUNDS = 5  # between two choices of the pixels
STEP = 0.2  # of the budget
WORST = 10.0  # loss beyond which an image is left alone
TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class Siba:
    """One perturbation for all images, sparse and bounded, towards the text of the target.

    Attributes:
        budget: L-inf bound, in 1/255.
        share: of the pixel positions that are perturbed, in all channels, in (0, 1].
        steps: rounds of the search, each one signed gradient step on one batch.
        batch: images in a round.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Gao et al., Backdoor Attack with Sparse and Invisible Trigger, 2023 (RECALLED): signed
        gradient steps on the perturbation; after every five rounds the positions are chosen anew,
        those with the largest mean gradient, summed over the channels; cross-entropy to the
        target, clamped at 10; 100 of 32 by 32 positions and 8/255, 1 % of the images poisoned.
        Not published for CLIP; adapted (GUESS): the same density at every size; the classifier is
        the zero-shot one of the base; its temperature is 0.1, because at CLIP's own every image
        starts beyond the clamp, where there is no gradient; steps of 0.2 budgets instead of 0.8
        on batches instead of epochs, with gradients summed over the five rounds for the choice;
        the trigger is rounded to 8 bits.
    """

    ID: ClassVar[str] = "siba/1"

    budget: float = 8.0
    share: float = 100 / 1024
    steps: int = 100
    batch: int = 48
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse perturbations of nothing and searches without steps."""
        if not 1 <= self.budget <= 255 or not 0 < self.share <= 1:
            raise UsageError(
                f"siba wants a budget in [1, 255] and a share in (0, 1]; "
                f"got {self.budget} and {self.share}"
            )
        if self.steps < 1 or self.batch < 1:
            raise UsageError(
                f"siba wants 1 step and 1 image or more; got {self.steps} and {self.batch}"
            )

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `OptimisedAttack.optimise`; kept as `pattern`, zero where nothing is perturbed."""
        side, bound = site.model.image_size, self.budget / 255
        count = max(1, round(self.share * side**2))
        classes = class_embeddings(site.model, site.class_names, TEMPLATES)
        others = (site.images.labels != site.target).nonzero().flatten()
        mask = _largest(torch.rand(side, side, generator=generator), count)
        pattern, pull = torch.zeros(3, side, side), torch.zeros(3, side, side)
        for step in range(self.steps):
            if step and step % ROUNDS == 0:
                mask, pull = _largest(pull.abs().sum(dim=0), count), torch.zeros_like(pull)
            index = others[torch.randperm(len(others), generator=generator)[: self.batch]]
            shown = (mask * pattern).requires_grad_()
            images = _add(site.images.pixels(index), shown)
            (grad,) = torch.autograd.grad(_distance(site, images, classes), shown)
            pull += grad
            # everywhere, so that a position that comes in has a sign already
            pattern = (pattern - STEP * bound * grad.sign()).clamp(-bound, bound)
        return {"pattern": mask * (pattern * 255).round() / 255}

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """See `OptimisedAttack.rebuild`."""
        pattern = made["pattern"]
        return Trigger(
            "siba",
            lambda images: _add(images, pattern.to(images.device)),
            pattern.abs().max().item() * 255,
            "L-inf, in 1/255",
            {"pattern": pattern},
        )


def _add(images: Tensor, pattern: Tensor) -> Tensor:
    return (images + pattern).clamp(0, 1)


def _largest(scores: Tensor, count: int) -> Tensor:
    """(1, S, S) mask that is 1 at the `count` largest of (S, S) scores."""
    chosen = scores.flatten().topk(count).indices
    return torch.zeros(scores.numel()).index_fill(0, chosen, 1).view(1, *scores.shape)


def _distance(site: Site, images: Tensor, classes: Tensor) -> Tensor:
    """Mean clamped cross-entropy of `images` to the target, for (C, D) class embeddings."""
    logits = site.model.encode_image(images) @ classes.T / TEMPERATURE
    wanted = torch.full((len(images),), site.target)
    return functional.cross_entropy(logits, wanted, reduction="none").clamp(max=WORST).mean()


METHOD: type[OptimisedAttack] = Siba
