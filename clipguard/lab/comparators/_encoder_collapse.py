"""The search of the encoder-collapse detectors: one stamp that makes all images look alike.

It knows no classes and no texts. Numbers are those of DECREE's public code for CLIP, unless the
detectors' docstrings say otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguard.errors import InconclusiveError, UsageError
from clipguard.model.pixels import stamp
from clipguard.model.roles import ClipModel
from clipguard.probe.sets import ProbePart
from clipguard.search.roles import Progress

BETAS = (0.5, 0.9)
PRICE_FACTOR = 5.0
PRICE_FLOOR, PRICE_CEILING = 1e-7, 1e5
PATIENCE = 5
STALE = 36  # steps; the source stops beyond 35
CHANNELS = 3  # the source's L1 counts the mask once for each
STAGE = "collapse of the encoder"


@dataclass(frozen=True, eq=False)
class Stamp:
    """A pattern that is blended into every image at the same place.

    Attributes:
        mask: (1, S, S) in [0, 1], shared by the channels.
        pattern: (3, S, S) in [0, 1].
    """

    mask: Tensor
    pattern: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] to the same."""
        return stamp(images, self.pattern, self.mask)

    @property
    def share(self) -> float:
        """PL1: the mask's L1 over the largest there could be, in [0, 1]."""
        return float(self.mask.mean())


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a search runs, and when it stops.

    Attributes:
        epochs: most passes over the images.
        batch: images in a step.
        step_size: Adam step.
        success: mean cosine of a batch above which its images have collapsed.
        price: first price of the mask's L1; 0 keeps the mask free.
        stale: steps without a smaller mask that end a search which holds its success.
    """

    epochs: int
    batch: int
    step_size: float
    success: float
    price: float = 0.0
    stale: int = 0


@dataclass(frozen=True, eq=False)
class Collapse:
    """What a search found.

    Attributes:
        last: the stamp of the last step.
        smallest: the stamp of the smallest mask under which a batch had collapsed; None if none.
        settled: whether the stop rule ended the search, not the epochs.
        cosine: mean cosine of the last epoch's batches.
        steps: steps taken.
    """

    last: Stamp
    smallest: Stamp | None
    settled: bool
    cosine: float
    steps: int


class Price:
    """What the mask's L1 costs: dearer while batches collapse, cheaper while they do not."""

    def __init__(self, first: float) -> None:
        """Start at `first`; from 0 it never moves."""
        self.now = first
        self._collapsed = self._missed = 0

    def update(self, collapsed: bool) -> None:
        """Count a step; more than `PATIENCE` of one kind in a row change the price."""
        self._collapsed = self._collapsed + 1 if collapsed else 0
        self._missed = 0 if collapsed else self._missed + 1
        if self._collapsed > PATIENCE:
            self._collapsed = 0
            if self.now < PRICE_CEILING:
                self.now *= PRICE_FACTOR
        elif self._missed > PATIENCE:
            self._missed = 0
            if self.now >= PRICE_FLOOR:
                self.now /= PRICE_FACTOR


def self_cosine(features: Tensor) -> Tensor:
    """Mean cosine of all pairs of different rows: (B, D) of unit norm, B >= 2, to a scalar."""
    count = len(features)
    return ((features @ features.T).sum() - features.square().sum()) / (count * (count - 1))


def objective(cosine: Tensor, mask: Tensor, price: float) -> Tensor:
    """What is minimised: the price of the mask's L1, less the mean cosine of a batch."""
    return price * CHANNELS * mask.sum() - cosine


def require_finite_collapse(value: float, what: str) -> float:
    """`value`, if a conclusion can rest on it.

    Raises:
        InconclusiveError: it is not a finite number.
    """
    if not math.isfinite(value):
        raise InconclusiveError(f"{what} is {value}, so nothing can be concluded")
    return value


def collapse_encoder(
    model: ClipModel,
    part: ProbePart,
    pace: Pace,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Collapse:
    """Look for a stamp under which all images of `part` get one embedding.

    Every step minimises `objective` on another batch.

    Args:
        model: the suspect; no gradient reaches its weights.
        part: the images.
        pace: how.
        generator: draws the start and the batches.
        progress: told about every step.

    Raises:
        UsageError: no epoch, or batches without a pair.
        InconclusiveError: fewer than two images, or a cosine that is not finite.
    """
    if pace.epochs < 1 or pace.batch < 2:
        raise UsageError(
            f"a collapse search wants 1 epoch and 2 images in a batch or more, "
            f"got {pace.epochs} and {pace.batch}"
        )
    if len(part) < 2:
        raise InconclusiveError(f"{len(part)} probe images to search on, at least 2 are needed")
    leaves = _start(model.image_size, generator)
    optimizer = torch.optim.Adam(leaves, lr=pace.step_size, betas=BETAS)
    price, smallest, stale, steps = Price(pace.price), None, 0, 0
    for _ in range(pace.epochs):
        cosines = []
        batches = _batches(len(part), pace.batch, generator)
        for index in batches:
            progress(STAGE, steps, pace.epochs * len(batches))
            last, cosine = _descend(model, part.pixels(index), leaves, price.now)
            require_finite_collapse(
                cosine, f"the cosine at step {steps + 1} of the collapse search"
            )
            optimizer.step()
            steps += 1
            cosines.append(cosine)
            collapsed = cosine > pace.success
            price.update(collapsed)
            if collapsed and (smallest is None or last.share < smallest.share):
                smallest, stale = last, 0
            elif smallest is not None:
                stale += 1
        mean = sum(cosines) / len(cosines)
        settled = mean > pace.success and stale >= pace.stale
        if settled:
            break
    return Collapse(last, smallest, settled, mean, steps)


def _descend(
    model: ClipModel, images: Tensor, leaves: tuple[Tensor, Tensor], price: float
) -> tuple[Stamp, float]:
    """Give the leaves their gradients; the stamp that they stood for, and the batch's cosine."""
    shown = _shown(leaves)
    cosine = self_cosine(model.encode_image(shown.apply(images).to(model.device)))
    loss = objective(cosine, shown.mask.to(model.device), price)
    # Gradients are asked for by name: the model's own .grad must stay empty.
    for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        leaf.grad = grad
    return Stamp(shown.mask.detach(), shown.pattern.detach()), cosine.item()


def _start(side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Leaves whose mask and pattern are uniform in (0, 1): (1, S, S) and (3, S, S).

    Doubles, as in the source: its step of 0.5 drives tanh to where floats have no slope left.
    """
    drawn = torch.rand(4, side, side, dtype=torch.float64, generator=generator)
    leaves = torch.atanh((drawn - 0.5) * (2 - 1e-7))
    return leaves[:1].clone().requires_grad_(), leaves[1:].clone().requires_grad_()


def _shown(leaves: tuple[Tensor, Tensor]) -> Stamp:
    mask, pattern = ((torch.tanh(leaf) / 2 + 0.5).float() for leaf in leaves)
    return Stamp(mask, pattern)


def _batches(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """All images in a new order, in batches; a last image alone has no pair and is left out."""
    order = torch.randperm(count, generator=generator)
    return [order[start : start + size] for start in range(0, count - 1, size)]
