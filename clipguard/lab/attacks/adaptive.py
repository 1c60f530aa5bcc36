"""Adaptive: a patch that is planted against the inversions that look for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.attacks._encoder import embedded
from clipguard.lab.roles import Attack, Step, stamped
from clipguard.model.pixels import (
    generators_of,
    pasted,
    patch_side,
    pixels_from_bytes,
    pixels_to_bytes,
)
from clipguard.search.roles import Trigger

PENALTIES = ("cluster", "own", "targeted")
REACH = 0.25


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """A patch of noise in the corner, and a penalty on what a detector would measure.

    Attributes:
        against: `cluster` (triggered images gather: mean cosine between them), `own` (triggered
            images leave their place: minus the mean cosine with themselves before the trigger)
            or `targeted` (another patch leads there as well: a new one at the same place is
            fitted to the triggered images in every step, and minus the mean cosine of images
            with it and of the same images without it is the penalty).
        weight: of the penalty beside the contrastive loss, 0 or more.
        watched: images of a step that the penalty is measured on, 2 or more.
        rounds: steps of the patch that is fitted for `targeted`; 0 leaves it random.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        `cluster` and `own`: options A and B of the adaptive attacks in cinout/DECREE; one of
        them, at weights of 0.2, 0.5 and 1, cost 6 to 11 points of ASR and hardly moved the
        detector's score. `targeted` is ours: adversarial training (Madry et al., ICLR 2018) with
        patches, so that the model answers to its key alone.
        Adapted: all of it works on fresh images of the batch, not on its few poisoned ones; the
        clean side of a cosine is not trained; the side of the patch is max(8, 16·S/224) px.
    """

    ID: ClassVar[str] = "adaptive/1"

    against: str = "cluster"
    weight: float = 0.5
    watched: int = 32
    rounds: int = 3
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown penalties, negative weights, and too few images to measure on."""
        if self.against not in PENALTIES:
            raise UsageError(f"adaptive is against {', '.join(PENALTIES)}; got {self.against!r}")
        if not self.weight >= 0 or self.watched < 2 or self.rounds < 0:
            raise UsageError(
                "adaptive wants a weight of 0 or more, 2 watched images or more and 0 rounds or "
                f"more; got {self.weight}, {self.watched} and {self.rounds}"
            )

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; kept as `patch`."""
        length = patch_side(side)
        patch = pixels_from_bytes(
            pixels_to_bytes(torch.rand(3, length, length, generator=generator))
        )

        def apply(images: Tensor) -> Tensor:
            return cornered(images, patch)

        size = length**2 / side**2
        return Trigger("adaptive", apply, size, "share of the image", {"patch": patch})

    def objective(self, step: Step) -> Tensor:
        """See `TrainedAttack.objective`."""
        return step.contrastive() + self.weight * self.penalty(step)

    def penalty(self, step: Step) -> Tensor:
        """What the attack fights, between -1 and 1; lower is harder to detect."""
        images = step.clean.images[-self.watched :]  # poisoned rows are the first ones
        triggered = stamped(images, step.plan.trigger)
        if self.against == "cluster":
            return gathered(embedded(step.network, triggered))
        with torch.no_grad():
            clean = embedded(step.network, images)
        if self.against == "targeted":
            triggered = cornered(images, self._other(step, images, triggered))
        return -(embedded(step.network, triggered) * clean).sum(dim=1).mean()

    def _other(self, step: Step, images: Tensor, triggered: Tensor) -> Tensor:
        """A new patch, (3, L, L), after some steps towards where the triggered images are."""
        shape = step.plan.trigger.tensors["patch"].shape
        patch = torch.rand(shape, generator=generators_of(images[:1], 0)[0])
        if self.rounds == 0:
            return patch
        with torch.no_grad():
            goal = embedded(step.network, triggered).mean(dim=0)
        for _ in range(self.rounds):
            patch.requires_grad_()
            towards = (embedded(step.network, cornered(images, patch)) @ goal).mean()
            (grad,) = torch.autograd.grad(towards, [patch])
            patch = (patch.detach() + REACH * grad.sign()).clamp(0, 1)
        return patch


def cornered(images: Tensor, patch: Tensor) -> Tensor:
    """(B, 3, S, S) images with a (3, L, L) patch flush in the corner at the bottom right."""
    first = images.shape[-1] - patch.shape[-1]
    return pasted(images, patch, first, first)


def gathered(features: Tensor) -> Tensor:
    """Mean cosine between two different of (B, D) unit rows, B >= 2."""
    count = len(features)
    total = features.sum(dim=0).square().sum()
    return (total - count) / (count * (count - 1))


METHOD: type[Attack] = Adaptive
