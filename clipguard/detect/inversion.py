"""The main detector: invert triggers, rank targets, compare with known-clean models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.detect.null_band import excess_over_null, log_odds
from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.detect.score import shipped_suspicion
from clipguard.errors import InconclusiveError
from clipguard.probe.rates import attack_rate, classify, embed, require_measurable
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.record import Candidate, DetectorRecord, FamilyRecord, Rate, TriggerRecord
from clipguard.registry import name_of
from clipguard.search.families.additive import Additive
from clipguard.search.families.patch import Patch
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.inverters.screen import Screen
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.roles import Inversion, Inverter, Progress, Search, TriggerFamily

Gaps = Mapping[str, Sequence[str]]
"""Per family, why its searches cannot be concluded from; families without a reason are absent."""


@dataclass(frozen=True, eq=False)
class Found:
    """A targeted trigger and its rates on the *measure* part."""

    target: int
    family: str
    inversion: Inversion
    asr: Rate
    natural: Rate

    @property
    def statistic(self) -> float:
        """Log odds of the ASR, which spreads out what a share near 0 or 1 would squeeze."""
        return log_odds(self.asr.value, self.asr.n)


@dataclass(frozen=True, kw_only=True)
class TriggerInversion:
    """Search for triggers without knowing trigger, target or poisoned data.

    What it measures:
        The share of images that the strongest inverted trigger of a family moves into one class,
        on images that the search never saw, against the same share on known-clean models.
    Why it matters:
        A planted trigger is a short cut: far less of the image is needed to reach its class.
    Blind spots:
        Triggers outside the searched families (warps, semantic objects, sample-specific
        patterns), backdoors that need a trigger in the text as well, and targets that are not in
        the class list. A clean model with an unusually easy class looks suspicious.

    Attributes:
        families: trigger families to search, each once.
        collapse: the class-agnostic search.
        screen: the targeted screen.
        targeted: the targeted refinement.
        candidates: classes of the screen that are refined, per family.

    Source:
        Collapse: reconstruction of CBPT stage 1. Refinement: Neural Cleanse (IEEE S&P 2019).
        Comparison of the pipeline's maximum with known-clean models: conformal p-value.
    """

    ID: ClassVar[str] = "inversion/1"

    families: tuple[TriggerFamily, ...] = (Patch(), Additive())
    collapse: Inverter = Collapse()
    screen: Inverter = Screen()
    targeted: Inverter = Targeted()
    candidates: int = 2

    def detect(
        self,
        subject: Subject,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """See `Detector.detect`.

        Raises:
            InconclusiveError: too few images to measure on, or a family without any rate.
        """
        probe = subject.probe
        require_measurable(probe.measure)
        search = Search(subject.model, probe, subject.classes)
        pairs = self._candidates(search, generator=generator, progress=progress)
        found, uncounted = self._refine(search, pairs, generator=generator, progress=progress)
        gaps = _gaps(found, uncounted, probe.class_names)
        families, excess, p_value = _compare(self._statistics(found, gaps), null)
        families = tuple(_judged(row, gaps.get(row.family, ())) for row in families)
        found.sort(key=lambda row: _position(row, families), reverse=True)
        score = None if excess is None else shipped_suspicion().probability(excess)
        record = DetectorRecord(
            name="inversion",
            evidence=_told_of(found[0], probe),
            score=score,
            p_value=p_value,
            excess=excess,
            statistic=excess,
            target=probe.class_names[found[0].target],
            families=families,
            candidates=tuple(_candidate(row, probe, families) for row in found),
            screened=True,
        )
        return Finding(record, tuple(row.inversion.trigger for row in found))

    def _candidates(
        self, search: Search, *, generator: torch.Generator, progress: Progress
    ) -> list[tuple[TriggerFamily, int]]:
        """Families and classes to refine: what collapse gathers, and what the screen favours."""
        pairs, runners_up = [], []
        for i, family in enumerate(self.families):
            name = name_of(family)
            job = search.during(progress, f"collapse inversion ({name})", i, len(self.families))
            gathered = self.collapse.invert(job, family, generator=generator)
            pairs.append((family, gathered.target))
            runners_up.append((family, gathered.ranking[1]))
            job = search.during(progress, f"targeted screen ({name})", i, len(self.families))
            ranking = self.screen.invert(job, family, generator=generator).ranking
            pairs += [(family, target) for target in ranking[: self.candidates]]
        if len({target for _, target in pairs}) == 1:
            pairs += runners_up  # without a second class nothing shows that the first is special
        return list(dict.fromkeys(pairs))

    def _refine(
        self,
        search: Search,
        pairs: list[tuple[TriggerFamily, int]],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> tuple[list[Found], list[tuple[str, int]]]:
        """The strongest trigger of each pair of family and class, and pairs without a rate."""
        part = search.probe.measure
        clean = classify(embed(search.model, part), search.classes)
        found, uncounted = [], []
        for done, (family, target) in enumerate(pairs):
            name = name_of(family)
            aimed = Search(search.model, search.probe, search.classes, target)
            aimed = aimed.during(progress, f"targeted inversion ({name})", done, len(pairs))
            inversion = self.targeted.invert(aimed, family, generator=generator)
            read = classify(embed(search.model, part, inversion.trigger.apply), search.classes)
            asr = attack_rate(read, part, clean, target, generator)
            natural = attack_rate(clean, part, clean, target, generator)
            if asr is None or natural is None:
                uncounted.append((name, target))
            else:
                found.append(Found(target, name, inversion, asr, natural))
        return found, uncounted

    def _statistics(self, found: list[Found], gaps: Gaps) -> dict[str, float]:
        """The worst target's statistic of every family."""
        by_family = {
            name: [row.statistic for row in found if row.family == name]
            for name in map(name_of, self.families)
        }
        if missing := [name for name, values in by_family.items() if not values]:
            raise InconclusiveError(_told({name: gaps[name] for name in missing}))
        return {name: max(values) for name, values in by_family.items()}


def _gaps(
    found: list[Found], uncounted: list[tuple[str, int]], names: Sequence[str]
) -> dict[str, list[str]]:
    """What was not looked at: searches that say nothing, and classes without images to move."""
    gaps: dict[str, list[str]] = {}
    for row in found:
        if not row.inversion.searched:
            why = f"the search towards {names[row.target]!r} had too few steps or broke down"
            gaps.setdefault(row.family, []).append(why)
    for family, target in uncounted:
        why = f"every probe image is of class {names[target]!r}, so none could be moved into it"
        gaps.setdefault(family, []).append(why)
    return gaps


def _told(gaps: Gaps) -> str:
    return "; ".join(f"{family}: {', '.join(reasons)}" for family, reasons in gaps.items())


def _compare(
    statistics: Mapping[str, float], null: NullBand | None
) -> tuple[tuple[FamilyRecord, ...], float | None, float | None]:
    """Family records, excess and p-value; the latter two only with a null band."""
    if null is not None:
        return null.compare(statistics)
    rows = (FamilyRecord(family=f, tested=True, statistic=v) for f, v in statistics.items())
    return tuple(rows), None, None


def _judged(row: FamilyRecord, reasons: Sequence[str]) -> FamilyRecord:
    """The family as not tested, if there is a reason to call it that."""
    if not reasons:
        return row
    return row.model_copy(update={"tested": False, "reason": "; ".join(reasons)})


def _excess(row: Found, families: tuple[FamilyRecord, ...]) -> float | None:
    """Where a candidate lies in its family's null band; None without one."""
    null = next(record.null for record in families if record.family == row.family)
    return excess_over_null(row.statistic, null) if null else None


def _position(row: Found, families: tuple[FamilyRecord, ...]) -> float:
    """What candidates of all families are ranked by."""
    excess = _excess(row, families)
    return row.statistic if excess is None else excess


def _told_of(row: Found, probe: ProbeSet) -> str:
    return (
        f"the {row.family} trigger moves {row.asr.value:.0%} of unseen images "
        f"to {probe.class_names[row.target]!r}"
    )


def _candidate(row: Found, probe: ProbeSet, families: tuple[FamilyRecord, ...]) -> Candidate:
    trigger = row.inversion.trigger
    return Candidate(
        target=probe.class_names[row.target],
        family=row.family,
        stage="targeted",
        asr=row.asr,
        natural=row.natural,
        statistic=row.statistic,
        excess=_excess(row, families),
        settled=row.inversion.converged,
        trigger=TriggerRecord(size=trigger.size, unit=trigger.unit),
    )


METHOD: type[Detector] = TriggerInversion
