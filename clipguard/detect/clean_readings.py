"""How differently two models read clean images: which classes moved, and which are still alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clipguard.search.sides import Pair

LIMIT = 0.99
"""Above it two models read a class alike, and how much above says nothing."""
MAD = 1.4826
"""Median absolute deviations in a standard deviation of a normal law."""
LEAST = 0.1
"""Of a deviation; classes that differ by less are read as one, as after a light fine-tune."""


class CleanReadings(NamedTuple):
    """What two models make of the same images without a trigger, class by class.

    Attributes:
        moved: all classes, first the one that is read most differently: by the mean absolute
            difference of log probabilities. Poison and new words both move the name they teach.
        alike: (C,) in [-1, 1], correlation over images of the two models' readings of a class. A
            name that the reference does not know reads as chance there: near 0, or below.
        apart: (C,) how far `alike` of a class lies below that of the others, in robust deviations
            of Fisher's transformation of it.
        right: (C,) share of the clean images of a class that the reference reads as it; None where
            no image is known to be of the class.
    """

    moved: tuple[int, ...]
    alike: tuple[float, ...]
    apart: tuple[float, ...]
    right: tuple[float | None, ...]


@torch.no_grad()
def clean_readings(pair: Pair, images: Tensor, labels: Tensor) -> CleanReadings:
    """Hold the clean readings of two models against each other.

    Args:
        pair: suspect and reference.
        images: (N, 3, S, S) uint8, N of at least 2.
        labels: (N,) their classes, -1 where they are not known.

    Source:
        Ours. That the target's own name moves most, and lies furthest apart, was measured on the
        lab's models: see `docs/research-log.md`.
    """
    mine, theirs = (
        torch.cat(
            [side.logits(part.to(side.model.device) / 255) for part in torch.split(images, 64)]
        )
        for side in (pair.suspect, pair.reference)
    )
    change = (mine.log_softmax(dim=1) - theirs.log_softmax(dim=1)).abs().mean(dim=0)
    one, other = _centred(mine), _centred(theirs)
    alike = (one * other).sum(dim=0) / (one.norm(dim=0) * other.norm(dim=0)).clamp(min=1e-6)
    alike = alike.clamp(-1, 1)
    return CleanReadings(
        moved=tuple(change.argsort(descending=True).tolist()),
        alike=tuple(alike.tolist()),
        apart=tuple(_apart(alike).tolist()),
        right=_right(theirs.argmax(dim=1).cpu(), labels, len(alike)),
    )


def _right(read: Tensor, labels: Tensor, classes: int) -> tuple[float | None, ...]:
    known = [labels == one for one in range(classes)]
    hits = [(read == one)[each] for one, each in enumerate(known)]
    return tuple(each.float().mean().item() if len(each) else None for each in hits)


def _apart(alike: Tensor) -> Tensor:
    """Robust deviations below the median; none where all classes are read alike."""
    known = alike.clamp(-LIMIT, LIMIT).atanh()
    below = known.median() - known
    return below / (MAD * below.abs().median()).clamp(min=LEAST)


def _centred(logits: Tensor) -> Tensor:
    """Without what all classes of an image, and all images of a class, have in common."""
    logits = logits - logits.mean(dim=1, keepdim=True)
    return logits - logits.mean(dim=0)
