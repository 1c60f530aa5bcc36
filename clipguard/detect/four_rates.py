"""What a search on two models measures: four rates, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clipguard.detect.null_band import log_odds
from clipguard.detect.roles import Finding
from clipguard.record import Against, Candidate, DetectorRecord, FamilyRecord, Rate, TriggerRecord
from clipguard.record.wording import percent
from clipguard.search.pair import Aim, Reached
from clipguard.search.roles import Trigger, TriggerFamily

FLOOR = 0.01
"""Added to shares before their log odds, so that 0 and 1 of few images say no more than they do."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One shape of trigger, in all the settings that it is searched in.

    Attributes:
        name: its own, by which limits know it.
        family: what the record calls its triggers.
        families: the settings; the best of them counts for each class.
        candidates: classes that the screen hands on to the long search; with none there is no
            screen, and only classes that moved are searched.
        pace: of the long search, times the step size of its families.
        opaque: whether it covers so little of the image that hardly any honest change of a model
            answers to it; its gap alone is then evidence.
    """

    name: str
    family: str
    families: tuple[TriggerFamily, ...]
    candidates: int = 3
    pace: float = 1.0
    opaque: bool = False


class Four(NamedTuple):
    """Shares of images read as the class of a search, on one part of the probe set.

    Attributes:
        own: the suspect's trigger, on the suspect.
        transfer: the suspect's trigger, on the reference.
        other: the reference's own trigger, on the reference.
        back: the reference's trigger, on the suspect.
    """

    own: float
    transfer: float
    other: float
    back: float

    @property
    def gap(self) -> float:
        """What the suspect's trigger does beyond anything found on the reference."""
        return self.own - max(self.transfer, self.other)

    @property
    def margin(self) -> float:
        """M: how much more the suspect yields than the reference, in log odds of all four."""
        return _odds(self.own) + _odds(self.back) - _odds(self.transfer) - _odds(self.other)


class Looked(NamedTuple):
    """One search on both models, and what it came to.

    Attributes:
        aim: its family and class.
        suspect: trigger found on the suspect.
        reference: trigger found on the reference.
        four: shares on the *select* part.
        control: whether the class was drawn to compare with.
    """

    aim: Aim
    suspect: Reached
    reference: Reached
    four: Four
    control: bool = False


class Measured(NamedTuple):
    """A search, and what was measured about it.

    Attributes:
        looked: the search.
        alike: how alike the two models read clean images as its class; see `CleanReadings`.
        right: how often the reference reads clean images of the class as it; see there.
        natural: share of the *measure* part that is read as the class without a trigger.
        own: as in `Four`, on the *measure* part, like the three that follow.
        transfer: see there.
        other: see there.
        back: see there.
    """

    looked: Looked
    alike: float
    right: float | None
    natural: Rate
    own: Rate
    transfer: Rate
    other: Rate
    back: Rate

    @property
    def four(self) -> Four:
        """The rates as plain shares."""
        return Four(self.own.value, self.transfer.value, self.other.value, self.back.value)


def value_of(rows: Sequence[Measured]) -> tuple[float, float]:
    """V of one kind and the control behind it.

    Args:
        rows: the candidate first, and among the others one control or more.

    Returns:
        M of the candidate minus M of the second strongest control, and the latter. Not of the
        strongest: a second backdoor, planted to be a control, would hide the first.
    """
    margins = sorted((row.four.margin for row in rows if row.looked.control), reverse=True)
    second = margins[min(1, len(margins) - 1)]
    return rows[0].four.margin - second, second


def finding(
    kinds: Sequence[Kind], done: Sequence[Sequence[Measured]], names: Sequence[str]
) -> Finding:
    """The record of what was measured, and the suspect's triggers.

    Args:
        kinds: everything that is searched.
        done: of the first of them, the best candidate, its controls, and of an opaque kind the
            candidate with the widest gap if that is another; one or more.
        names: of all classes.

    Returns:
        Candidates by V, the largest first. Of an opaque kind the class with the widest gap is a
        candidate, too, whatever it was drawn for.
    """
    found: list[tuple[float, Candidate, Trigger]] = []
    for kind, rows in zip(kinds, done, strict=False):
        value, most = value_of(rows)
        shown: list[tuple[float, Measured, float | None]] = [(value, rows[0], most)]
        widest = max(rows, key=lambda row: row.four.gap)
        if kind.opaque and widest is not rows[0]:
            shown.append((-math.inf, widest, None))
        for rank, row, control in shown:
            trigger = _trigger(row)
            found.append((rank, _candidate(kind, row, trigger, control, names), trigger))
    found.sort(key=lambda entry: entry[0], reverse=True)
    value, first, _ = found[0]
    candidates = tuple(candidate for _, candidate, _ in found)
    record = DetectorRecord(
        name="differential",
        evidence=told(first),
        statistic=value,
        target=first.target,
        families=_families(candidates, {kind.family for kind in kinds[len(done) :]}),
        candidates=candidates,
        screened=all(kind.candidates for kind in kinds),
    )
    return Finding(record, tuple(trigger for _, _, trigger in found))


def _trigger(row: Measured) -> Trigger:
    return row.looked.aim.family.trigger(row.looked.suspect.parameters, 1.0)


def _candidate(
    kind: Kind, row: Measured, trigger: Trigger, control: float | None, names: Sequence[str]
) -> Candidate:
    return Candidate(
        target=names[row.looked.aim.goal[0]],
        family=kind.family,
        stage="targeted",
        asr=row.own,
        natural=row.natural,
        statistic=row.four.margin,
        settled=True,
        trigger=TriggerRecord(size=trigger.size, unit=trigger.unit),
        against=Against(
            kind=kind.name,
            transfer=row.transfer,
            reference=row.other,
            back=row.back,
            gap=row.four.gap,
            alike=row.alike,
            right=row.right,
            control=control,
            opaque=kind.opaque,
        ),
    )


def _families(candidates: Sequence[Candidate], missing: set[str]) -> tuple[FamilyRecord, ...]:
    """One row for each family, with the strongest ASR found in it as log odds."""
    most: dict[str, float] = {}
    for row in candidates:
        odds = log_odds(row.asr.value, row.asr.n)
        most[row.family] = max(odds, most.get(row.family, odds))
    return tuple(
        FamilyRecord(
            family=family,
            tested=family not in missing,
            reason="the search was cut short" if family in missing else "",
            statistic=most.get(family),
        )
        for family in sorted({*most, *missing})
    )


def told(first: Candidate) -> str:
    """The strongest finding in one sentence.

    Raises:
        ValueError: the candidate was not held against a reference.
    """
    against = first.against
    if against is None:
        raise ValueError("a candidate of a differential search has the rates of the reference")
    reference = max(against.transfer.value, against.reference.value)
    return (
        f"the {first.family} trigger turns {percent(first.asr.value)} of unseen images into "
        f"{first.target!r} on this model and {percent(reference)} on the reference"
    )


def _odds(share: float) -> float:
    return math.log((share + FLOOR) / (1 - share + FLOOR))
