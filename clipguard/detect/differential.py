"""Differential screen: what works on the suspect and not on the reference was put there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from clipguard.detect.four_rates import Four, Kind, Looked, Measured, finding
from clipguard.detect.roles import Finding
from clipguard.errors import InconclusiveError
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import classify, embed, pseudo_labels, rate, require_measurable
from clipguard.probe.sets import ProbePart, Subject
from clipguard.registry import name_of
from clipguard.search.pair import Aim, Effort, Reached, readings, search_all
from clipguard.search.roles import Progress
from clipguard.search.sides import Pair, paired

AT_ONCE = 60
"""Searches that are run in full on one level; of more, the best after a short look."""
Tick = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Differential:
    """Search suspect and reference alike, and ask what only the suspect answers to.

    What it measures:
        V: how much more one class of the suspect yields than the same class of the reference, in
        log odds, beyond what the same pair shows for classes drawn at random.
    Why it matters:
        A natural trigger works on the model that a checkpoint was made from as well; a planted
        one does not. The other classes of the pair are a null that needs no further model.
    Blind spots:
        A reference with the same backdoor cancels it. A trigger trained to work on the reference,
        too, is hidden in part. So many targets that the drawn classes are targets as well hide
        each other in V, though not in the gap. Triggers outside the searched kinds.

    Attributes:
        kinds: shapes of triggers.
        groups: most groups of classes on one level of the screen.
        keep: groups that are split further, for every three candidates.
        first: a short look where there are very many searches.
        screen: of every group.
        refine: of candidates and controls.
        controls: classes drawn to compare with.
        compared: of those, how many are measured for each kind: the strongest on *select*.
        select: images that choose.
        measure: images behind every published rate.

    Source:
        Ours. Groups and halving as in `screen`.
    """

    ID: ClassVar[str] = "differential/1"

    kinds: tuple[Kind, ...]
    groups: int = 20
    keep: int = 4
    first: Effort
    screen: Effort
    refine: Effort
    controls: int = 8
    compared: int = 2
    select: int = 48
    measure: int = 300

    def pair(self, subject: Subject, reference: ClipModel) -> Pair:
        """Both models, and enough classes to compare with: see `paired`."""
        least = self.controls + sum(kind.candidates for kind in self.kinds)
        return paired(subject, reference, least=least)

    def compare(self, pair: Pair, *, seed: int, progress: Progress) -> Iterator[Finding]:
        """Search and measure one kind after the other; what is known after each of them.

        Args:
            pair: made by `pair`.
            seed: of starts, batches, groups and controls.
            progress: told about every step.

        Yields:
            One finding for every kind, over all kinds so far. Kinds that are still to come count
            as not tested.

        Raises:
            InconclusiveError: too few images to measure on, or all of one class.
        """
        used = min(self.measure, len(pair.probe.measure))
        done: list[list[Measured]] = []
        for rows in self.measures(pair, seed=seed, progress=progress):
            done.append(rows)
            found = finding(self.kinds, done, pair.names)
            told = {"passes": pair.passes.counted, "measured": used}
            yield Finding(found.record.model_copy(update=told), found.triggers)

    def measures(self, pair: Pair, *, seed: int, progress: Progress) -> Iterator[list[Measured]]:
        """Of every kind the best candidate, and then its strongest controls.

        They are chosen on *select* and measured on *measure*. Arguments and errors are those of
        `compare`.
        """
        probe = pair.probe
        require_measurable(probe.measure)
        choosing = _looked_at(pair, _drawn(probe.select, self.select, seed))
        measuring = _looked_at(pair, _drawn(probe.measure, self.measure, seed))
        generator, taken = torch.Generator().manual_seed(seed), set[int]()
        for i, kind in enumerate(self.kinds):
            told = f"{name_of(kind.families[0])}, against the reference"
            tick = partial(progress, told, i, len(self.kinds))
            aims = self._candidates(pair, kind, seed, tick)
            taken |= {aim.goal[0] for aim in aims}
            rows = [*aims, *self._controls(pair, aims, taken, seed)]
            effort = replace(self.refine, step_size=self.refine.step_size * kind.pace)
            found = _on_both(pair, rows, effort, seed + 2, tick)
            looked = _looked(pair, rows, found, choosing)
            candidates = looked[: len(aims)]
            controls = [row._replace(control=True) for row in looked[len(aims) :]]
            best = max(candidates, key=lambda row: row.four.margin)
            controls.sort(key=lambda row: row.four.margin, reverse=True)
            shown = [best, *controls[: self.compared]]
            widest = max(candidates, key=lambda row: row.four.gap)
            shown += [widest] if kind.opaque and widest is not best else []
            yield [_measured(pair, row, measuring, generator) for row in shown]

    def _candidates(self, pair: Pair, kind: Kind, seed: int, tick: Tick) -> list[Aim]:
        """The classes that the suspect yields to sooner than the reference, best first."""
        order = torch.randperm(pair.targets, generator=torch.Generator().manual_seed(seed))
        goals = _split(tuple(order.tolist()), self.groups)
        aims = [Aim(family, goal) for family in kind.families for goal in goals]
        keep = math.ceil(self.keep * kind.candidates / 3)
        if len(aims) > AT_ONCE:
            aims = _best(aims, self._lead(pair, aims, self.first, seed, tick))[:AT_ONCE]
        lead = self._lead(pair, aims, self.screen, seed, tick)
        while any(len(aim.goal) > 1 for aim in aims):
            kept = _best(aims, lead)[:keep]
            parts = max(2, self.groups // self.keep)
            aims = [Aim(aim.family, goal) for aim in kept for goal in _split(aim.goal, parts)]
            lead = self._lead(pair, aims, self.screen, seed, tick)
        first: dict[tuple[int, ...], Aim] = {}
        for aim in _best(aims, lead):
            first.setdefault(aim.goal, aim)
        return list(first.values())[: kind.candidates]

    def _lead(
        self, pair: Pair, aims: list[Aim], effort: Effort, seed: int, tick: Tick
    ) -> list[float]:
        """D: by how much the suspect's loss lies below the reference's after the same search."""
        mine, theirs = _on_both(pair, aims, effort, seed, tick)
        return [their.loss - my.loss for my, their in zip(mine, theirs, strict=True)]

    def _controls(self, pair: Pair, aims: list[Aim], taken: set[int], seed: int) -> list[Aim]:
        """Classes that no screen favoured so far, drawn by lot, with the settings of `aims`."""
        draws = torch.Generator().manual_seed(seed + 1)
        order = torch.randperm(len(pair.names), generator=draws).tolist()
        drawn = [one for one in order if one not in taken][: self.controls]
        if len(drawn) < self.controls:
            raise InconclusiveError(
                f"{len(drawn)} classes are left to compare with, {self.controls} are needed"
            )
        return [Aim(aims[k % len(aims)].family, (one,)) for k, one in enumerate(drawn)]


Found = tuple[list[Reached], list[Reached]]
"""What every aim came to on the suspect, and on the reference."""


class LookedAt(NamedTuple):
    """Images, and the classes (N,) that the suspect reads from them without a trigger."""

    part: ProbePart
    clean: Tensor


def _on_both(pair: Pair, aims: Sequence[Aim], effort: Effort, seed: int, tick: Tick) -> Found:
    """The same searches on the suspect and on the reference.

    Raises:
        InconclusiveError: a model's gradients are not finite, or are zero.
    """
    images = pair.probe.optimise.images
    mine, theirs = (
        search_all(side, aims, images, effort, seed=seed, tick=tick)
        for side in (pair.suspect, pair.reference)
    )
    if not all(one.sound for one in (*mine, *theirs)):
        raise InconclusiveError(
            "the gradients of a model are not finite, or are zero, so nothing could be searched"
        )
    return mine, theirs


def _split(goal: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    """`goal` in at most `parts` pieces of about one length."""
    size = math.ceil(len(goal) / parts)
    return [goal[i : i + size] for i in range(0, len(goal), size)]


def _best(aims: Sequence[Aim], lead: Sequence[float]) -> list[Aim]:
    return [aims[i] for i in sorted(range(len(aims)), key=lambda i: lead[i], reverse=True)]


def _drawn(part: ProbePart, count: int, seed: int) -> ProbePart:
    """At most `count` images of a part."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    index = order[:count].sort().values
    return ProbePart(part.images[index], part.labels[index], part.drawings[index])


def _looked_at(pair: Pair, part: ProbePart) -> LookedAt:
    pair.suspect.passes.forward += len(part)
    return LookedAt(part, classify(embed(pair.suspect.model, part), pair.suspect.classes))


def _looked(pair: Pair, aims: Sequence[Aim], found: Found, choosing: LookedAt) -> list[Looked]:
    """Every search with its shares on *select*."""
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


def _measured(pair: Pair, row: Looked, measuring: LookedAt, generator: torch.Generator) -> Measured:
    (part, clean), goal = measuring, row.aim.goal[0]
    others = pseudo_labels(part, clean) != goal
    hits = _hits(pair, [row.aim], [row.suspect], [row.reference], part.images)[:, 0]
    own = [rate(each[others], part.drawings[others], generator) for each in (clean == goal, *hits)]
    known = [one for one in own if one is not None]
    if len(known) < len(own):
        raise InconclusiveError("every probe image is of one class, so none could be moved into it")
    return Measured(row, *known)
