"""Differential screen: what works on the suspect and not on the reference was put there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from clipguard.detect.clean_readings import CleanReadings, clean_readings
from clipguard.detect.four_rates import Kind, Measured, finding
from clipguard.detect.measured import OnBoth, chosen_on, measured_on, shown_part
from clipguard.detect.roles import Finding
from clipguard.errors import InconclusiveError
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import require_measurable
from clipguard.probe.sets import Subject
from clipguard.record import ApartRecord
from clipguard.registry import name_of
from clipguard.search.pair import Aim, Effort, search_all
from clipguard.search.roles import Progress
from clipguard.search.sides import Pair, paired

AT_ONCE = 40
"""Searches that are run in full on one level; of more, the best after a short look."""
FURTHEST = 50
"""Classes whose clean readings the record tells, those that lie furthest apart."""
LEAST_IMAGES = 10
"""Fewer say nothing about how alike two models read a class."""
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
        moved: candidates of every kind that no search chose: the classes that clean images are
            read as most differently by the two models. Poison moves its target's name.
        controls: classes drawn to compare with, from the half that moved least: further targets
            move, too, and would hide the first one.
        compared: of those, how many are measured for each kind: the strongest on *select*.
        clean: images whose readings without a trigger are compared.
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
    moved: int = 2
    controls: int = 8
    compared: int = 2
    clean: int = 200
    select: int = 48
    measure: int = 300

    def pair(self, subject: Subject, reference: ClipModel) -> Pair:
        """Both models, and enough classes to compare with: see `paired`."""
        least = self.controls + self.moved + sum(kind.candidates for kind in self.kinds)
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
        used, clean = min(self.measure, len(pair.probe.measure)), self.clean_readings(pair)
        order = sorted(range(pair.targets), key=lambda one: clean.apart[one], reverse=True)
        apart = tuple(
            ApartRecord(
                target=pair.names[one],
                apart=clean.apart[one],
                alike=clean.alike[one],
                right=clean.right[one],
            )
            for one in order[:FURTHEST]
        )
        done: list[list[Measured]] = []
        for rows in self.measures(pair, clean, seed=seed, progress=progress):
            done.append(rows)
            found = finding(self.kinds, done, pair.names)
            told = {"passes": pair.passes.counted, "measured": used, "apart": apart}
            yield Finding(found.record.model_copy(update=told), found.triggers)

    def clean_readings(self, pair: Pair) -> CleanReadings:
        """How differently the two models read images of the *optimise* part without a trigger.

        Raises:
            InconclusiveError: too few images.
        """
        part = pair.probe.optimise
        if len(part) < LEAST_IMAGES:
            raise InconclusiveError(
                f"{len(part)} images to compare clean readings on, {LEAST_IMAGES} are needed"
            )
        return clean_readings(pair, part.images[: self.clean], part.labels[: self.clean])

    def measures(
        self, pair: Pair, clean: CleanReadings, *, seed: int, progress: Progress
    ) -> Iterator[list[Measured]]:
        """Of every kind the best candidate, and then its strongest controls.

        They are chosen on *select* and measured on *measure*. Errors are those of `compare`.

        Args:
            pair: made by `pair`.
            clean: made by `clean_readings`.
            seed: see `compare`.
            progress: see there.
        """
        probe = pair.probe
        require_measurable(probe.measure)
        choosing = shown_part(pair, probe.select, self.select, seed)
        measuring = shown_part(pair, probe.measure, self.measure, seed)
        generator, taken = torch.Generator().manual_seed(seed), set[int]()
        for i, kind in enumerate(self.kinds):
            told = f"{name_of(kind.families[0])}, against the reference"
            tick = partial(progress, told, i, len(self.kinds))
            aims = self._candidates(pair, kind, clean.moved, seed, tick)
            taken |= {aim.goal[0] for aim in aims}
            free = [one for one in clean.moved if one not in taken]
            rows = [*aims, *self._controls(aims, free, seed)]
            effort = replace(self.refine, step_size=self.refine.step_size * kind.pace)
            found = _on_both(pair, rows, effort, seed + 2, tick)
            looked = chosen_on(pair, rows, found, choosing)
            candidates = looked[: len(aims)]
            controls = [row._replace(control=True) for row in looked[len(aims) :]]
            best = max(candidates, key=lambda row: row.four.margin)
            controls.sort(key=lambda row: row.four.margin, reverse=True)
            shown = [best, *controls[: self.compared]]
            widest = max(candidates, key=lambda row: row.four.gap)
            shown += [widest] if kind.opaque and widest is not best else []
            yield [measured_on(pair, row, clean, measuring, generator) for row in shown]

    def _candidates(
        self, pair: Pair, kind: Kind, moved: Sequence[int], seed: int, tick: Tick
    ) -> list[Aim]:
        """The classes that moved most, and those that the suspect yields to sooner."""
        aims, lead = self._screened(pair, kind, seed, tick) if kind.candidates else ([], [])
        known = [one for one in moved if one < pair.targets][: self.moved]
        more = [Aim(family, (one,)) for family in kind.families for one in known]
        lead += self._lead(pair, more, self.screen, seed, tick)
        best: dict[int, Aim] = {}
        for aim in _best([*aims, *more], lead):
            best.setdefault(aim.goal[0], aim)
        first = [one for one in best if one not in known][: kind.candidates]
        return [best[one] for one in (*known, *first)]

    def _screened(
        self, pair: Pair, kind: Kind, seed: int, tick: Tick
    ) -> tuple[list[Aim], list[float]]:
        """Searches for single classes, out of the best groups, and by how much each leads."""
        aims, lead = self.groups_led(pair, kind, seed, tick)
        keep = math.ceil(self.keep * kind.candidates / 3)
        while any(len(aim.goal) > 1 for aim in aims):
            kept = _best(aims, lead)[:keep]
            parts = max(2, self.groups // self.keep)
            aims = [Aim(aim.family, goal) for aim in kept for goal in _split(aim.goal, parts)]
            lead = self._lead(pair, aims, self.screen, seed, tick)
        return aims, lead

    def groups_led(
        self, pair: Pair, kind: Kind, seed: int, tick: Tick
    ) -> tuple[list[Aim], list[float]]:
        """The first level of the screen: searches for groups of classes, and D of each.

        Args:
            pair: made by `pair`.
            kind: shape of trigger.
            seed: of groups, starts and batches.
            tick: called at every step.
        """
        order = torch.randperm(pair.targets, generator=torch.Generator().manual_seed(seed))
        goals = _split(tuple(order.tolist()), self.groups)
        aims = [Aim(family, goal) for family in kind.families for goal in goals]
        if len(aims) > AT_ONCE:
            aims = _best(aims, self._lead(pair, aims, self.first, seed, tick))[:AT_ONCE]
        return aims, self._lead(pair, aims, self.screen, seed, tick)

    def _lead(
        self, pair: Pair, aims: list[Aim], effort: Effort, seed: int, tick: Tick
    ) -> list[float]:
        """D: by how much the suspect's loss lies below the reference's after the same search."""
        mine, theirs = _on_both(pair, aims, effort, seed, tick)
        return [their.loss - my.loss for my, their in zip(mine, theirs, strict=True)]

    def _controls(self, aims: list[Aim], free: Sequence[int], seed: int) -> list[Aim]:
        """Some of the classes that no screen favoured so far, with the settings of `aims`.

        Args:
            aims: the candidates.
            free: classes to draw from, those that moved most first.
            seed: of the draw.
        """
        if len(free) < self.controls:
            raise InconclusiveError(
                f"{len(free)} classes are left to compare with, {self.controls} are needed"
            )
        still = free[-max(self.controls, len(free) // 2) :]
        order = torch.randperm(len(still), generator=torch.Generator().manual_seed(seed + 1))
        drawn = [still[i] for i in order[: self.controls].tolist()]
        return [Aim(aims[k % len(aims)].family, (one,)) for k, one in enumerate(drawn)]


def _on_both(pair: Pair, aims: Sequence[Aim], effort: Effort, seed: int, tick: Tick) -> OnBoth:
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
