"""What searches on two models come to on images that no search has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clipguard.detect.clean_readings import CleanReadings
from clipguard.detect.four_rates import Four, Looked, Measured
from clipguard.errors import InconclusiveError
from clipguard.probe.rates import classify, embed, pseudo_labels, rate
from clipguard.probe.sets import ProbePart
from clipguard.search.pair import Aim, Reached, readings
from clipguard.search.sides import Pair

OnBoth = tuple[list[Reached], list[Reached]]
"""What every aim came to on the suspect, and on the reference."""


class Shown(NamedTuple):
    """Images, and the classes (N,) that the suspect reads from them without a trigger."""

    part: ProbePart
    clean: Tensor


def shown_part(pair: Pair, part: ProbePart, count: int, seed: int) -> Shown:
    """At most `count` images of a part, drawn by `seed`, with what the suspect reads from them."""
    part = _drawn(part, count, seed)
    pair.suspect.passes.forward += len(part)
    return Shown(part, classify(embed(pair.suspect.model, part), pair.suspect.classes))


def chosen_on(pair: Pair, aims: Sequence[Aim], found: OnBoth, choosing: Shown) -> list[Looked]:
    """Every search with its shares on images that choose among them.

    Args:
        pair: suspect and reference.
        aims: P searches.
        found: what each came to.
        choosing: the images, of the *select* part.
    """
    hits = _hits(pair, aims, *found, choosing.part.images)
    goals = torch.tensor([aim.goal[0] for aim in aims])[:, None]
    others = pseudo_labels(choosing.part, choosing.clean) != goals
    shares = (hits & others).sum(2) / others.sum(1).clamp(min=1)
    return [
        Looked(aim, mine, theirs, Four(*four))
        for aim, mine, theirs, four in zip(aims, *found, shares.T.tolist(), strict=True)
    ]


def _hits(
    pair: Pair,
    aims: Sequence[Aim],
    mine: Sequence[Reached],
    theirs: Sequence[Reached],
    images: Tensor,
) -> Tensor:
    """(4, P, N) bool, in the order of `Four`: which images are read as the class of a search."""
    goals = torch.tensor([aim.goal[0] for aim in aims])[:, None]
    rows = [
        readings(side, aims, found, images) == goals
        for found, side in (
            (mine, pair.suspect),
            (mine, pair.reference),
            (theirs, pair.reference),
            (theirs, pair.suspect),
        )
    ]
    return torch.stack(rows)


def measured_on(
    pair: Pair, row: Looked, clean: CleanReadings, measuring: Shown, generator: torch.Generator
) -> Measured:
    """The rates of one search, with their intervals.

    Args:
        pair: suspect and reference.
        row: the search.
        clean: how the two models read clean images.
        measuring: the images, of the *measure* part.
        generator: of the intervals.

    Raises:
        InconclusiveError: all images are of the class of the search.
    """
    (part, read), goal = measuring, row.aim.goal[0]
    others = pseudo_labels(part, read) != goal
    hits = _hits(pair, [row.aim], [row.suspect], [row.reference], part.images)[:, 0]
    own = [rate(each[others], part.drawings[others], generator) for each in (read == goal, *hits)]
    known = [one for one in own if one is not None]
    if len(known) < len(own):
        raise InconclusiveError("every probe image is of one class, so none could be moved into it")
    return Measured(row, clean.alike[goal], clean.right[goal], *known)


def _drawn(part: ProbePart, count: int, seed: int) -> ProbePart:
    """At most `count` images of a part."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    return part.rows(order[:count].sort().values)
