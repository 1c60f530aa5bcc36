"""Differential screen: what works on the suspect and not on the reference was put there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.detect.four_rates import Four, Kind, Looked, Measured, finding
from clipguard.detect.roles import Finding
from clipguard.errors import InconclusiveError
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import classify, embed, pseudo_labels, rate
from clipguard.probe.sets import ProbePart, Subject
from clipguard.record import Rate
from clipguard.search.pair import Aim, Effort, Pair, paired, readings, search_all
from clipguard.search.roles import Progress, TriggerFamily

MIN_MEASURE = 20
SPARE = 3
"""Classes beyond the controls, so that a short class list has candidates as well."""
AT_ONCE = 100
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

    def pair(self, subject: Subject, reference: ClipModel, further: Sequence[str] = ()) -> Pair:
        """Both models, and enough classes to compare with: see `paired`."""
        return paired(subject, reference, further, least=self.controls + SPARE)

    def compare(self, pair: Pair, *, seed: int, progress: Progress) -> Finding:
        """Everything: search, choose on *select*, measure on *measure*.

        Args:
            pair: made by `pair`.
            seed: of starts, batches, groups and controls.
            progress: told about every step.

        Raises:
            InconclusiveError: too few images to measure on, or all of one class.
        """
        measure = pair.probe.measure
        if len(measure) < MIN_MEASURE:
            have = f"{len(measure)} probe images to measure on"
            raise InconclusiveError(f"{have}, at least {MIN_MEASURE} are needed")
        looked = self.look(pair, seed=seed, progress=progress)
        rows = self.measured(pair, looked, seed=seed, compared=self.compared)
        found = finding(list(zip(self.kinds, rows, strict=True)), pair.names)
        used = {"passes": pair.passes.counted, "measured": min(self.measure, len(measure))}
        return Finding(found.record.model_copy(update=used), found.triggers)

    def look(self, pair: Pair, *, seed: int, progress: Progress) -> list[Looked]:
        """Every long search of candidates and controls, with its four shares on *select*."""
        chosen = []
        for i, kind in enumerate(self.kinds):
            tick = _tick(progress, f"screen ({_name(kind)})", i, len(self.kinds))
            chosen.append(self._candidates(pair, kind, seed, tick))
        controls = self._controls(pair, [aim for aims in chosen for aim in aims], seed)
        rows = []
        for i, aims in enumerate(chosen):
            rows += [(i, aim, False) for aim in aims]
            drawn = [Aim(aims[k % len(aims)].family, (one,)) for k, one in enumerate(controls)]
            rows += [(i, aim, True) for aim in drawn]
        rows.sort(key=lambda row: (row[0], self.kinds[row[0]].families.index(row[1].family)))
        return self._refined(pair, rows, seed, _tick(progress, "search", 0, 1))

    def _candidates(self, pair: Pair, kind: Kind, seed: int, tick: Tick) -> list[Aim]:
        """The classes that the suspect yields to sooner than the reference, best first."""
        order = torch.randperm(pair.targets, generator=torch.Generator().manual_seed(seed))
        goals = _split(tuple(order.tolist()), self.groups)
        aims = [Aim(family, goal) for family in kind.families for goal in goals]
        keep = math.ceil(self.keep * kind.candidates / 3)
        if len(aims) > AT_ONCE:
            lead = self._lead(pair, aims, self.first, seed, tick)
            aims = _best(aims, _robust(aims, lead))[:AT_ONCE]
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
        images = pair.probe.optimise.images
        mine, theirs = (
            search_all(side, aims, images, effort, seed=seed, tick=tick)
            for side in (pair.suspect, pair.reference)
        )
        return [their.loss - my.loss for my, their in zip(mine, theirs, strict=True)]

    def _controls(self, pair: Pair, candidates: Sequence[Aim], seed: int) -> list[int]:
        """Classes that no screen favoured, drawn by lot."""
        taken = {aim.goal[0] for aim in candidates}
        order = torch.randperm(
            len(pair.names), generator=torch.Generator().manual_seed(seed + 1)
        ).tolist()
        return [one for one in order if one not in taken][: self.controls]

    def _refined(
        self, pair: Pair, rows: Sequence[tuple[int, Aim, bool]], seed: int, tick: Tick
    ) -> list[Looked]:
        """Long searches on both models, and their shares on *select*.

        Args:
            pair: both models.
            rows: kind, aim, and whether it is a control.
            seed: of the searches.
            tick: called at every step.
        """
        aims = [aim for _, aim, _ in rows]
        images, part = pair.probe.optimise.images, _drawn(pair.probe.select, self.select, seed)
        mine, theirs = (
            search_all(side, aims, images, self.refine, seed=seed + 2, tick=tick)
            for side in (pair.suspect, pair.reference)
        )
        labels = pseudo_labels(part, _clean(pair, part))
        goals = torch.tensor([aim.goal[0] for aim in aims])[:, None]
        others = labels != goals
        counts = others.sum(1).clamp(min=1)
        shares = [
            ((readings(side, aims, found, part.images) == goals) & others).sum(1) / counts
            for found, side in (
                (mine, pair.suspect),
                (mine, pair.reference),
                (theirs, pair.reference),
                (theirs, pair.suspect),
            )
        ]
        return [
            Looked(*row, my, their, Four(*four))
            for row, my, their, four in zip(
                rows, mine, theirs, torch.stack(shares, dim=1).tolist(), strict=True
            )
        ]

    def measured(
        self, pair: Pair, looked: Sequence[Looked], *, seed: int, compared: int
    ) -> list[list[Measured]]:
        """Of each kind the best candidate and its strongest controls, on *measure*.

        Raises:
            InconclusiveError: every image is of the class of a search.
        """
        part = _drawn(pair.probe.measure, self.measure, seed)
        generator = torch.Generator().manual_seed(seed)
        found = []
        for i in range(len(self.kinds)):
            rows = sorted((r for r in looked if r.kind == i), key=lambda r: -r.four.margin)
            best = next(row for row in rows if not row.control)
            against = [row for row in rows if row.control][:compared]
            found.append([_measured(pair, row, part, generator) for row in (best, *against)])
        return found


def _tick(progress: Progress, stage: str, done: int, total: int) -> Tick:
    return lambda: progress(stage, done, total)


def _name(kind: Kind) -> str:
    return type(kind.families[0]).ID.partition("/")[0]


def _split(goal: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    """`goal` in at most `parts` pieces of about one length."""
    size = math.ceil(len(goal) / parts)
    return [goal[i : i + size] for i in range(0, len(goal), size)]


def _best(aims: Sequence[Aim], lead: Sequence[float]) -> list[Aim]:
    return [aims[i] for i in sorted(range(len(aims)), key=lambda i: lead[i], reverse=True)]


def _robust(aims: Sequence[Aim], lead: Sequence[float]) -> list[float]:
    """Distance from the median of the same family, in its median deviations."""
    by_family: dict[TriggerFamily, list[float]] = {}
    for aim, value in zip(aims, lead, strict=True):
        by_family.setdefault(aim.family, []).append(value)
    middle = {family: median(values) for family, values in by_family.items()}
    spread = {
        family: median(abs(value - middle[family]) for value in values) + 1e-9
        for family, values in by_family.items()
    }
    return [
        (value - middle[aim.family]) / spread[aim.family]
        for aim, value in zip(aims, lead, strict=True)
    ]


def _drawn(part: ProbePart, count: int, seed: int) -> ProbePart:
    """At most `count` images of a part."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    index = order[:count].sort().values
    return ProbePart(part.images[index], part.labels[index], part.drawings[index])


def _clean(pair: Pair, part: ProbePart) -> Tensor:
    """(N,) classes that the suspect reads from the clean images."""
    return classify(embed(pair.suspect.model, part), pair.suspect.classes)


def _measured(pair: Pair, row: Looked, part: ProbePart, generator: torch.Generator) -> Measured:
    clean, goal = _clean(pair, part), row.aim.goal[0]
    others = pseudo_labels(part, clean) != goal
    hits = [clean == goal]
    for found, side in (
        (row.suspect, pair.suspect),
        (row.suspect, pair.reference),
        (row.reference, pair.reference),
        (row.reference, pair.suspect),
    ):
        hits.append(readings(side, [row.aim], [found], part.images)[0] == goal)
    return Measured(row, *(_rate(each[others], part.drawings[others], generator) for each in hits))


def _rate(hits: Tensor, drawings: Tensor, generator: torch.Generator) -> Rate:
    found = rate(hits, drawings, generator)
    if found is None:
        raise InconclusiveError("every probe image is of one class, so none could be moved into it")
    return found
