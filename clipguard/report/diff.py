"""What changed between two records: the decision, the model, its findings, the policy's lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from clipguard.record import AuditRecord, Candidate, Check, Rate
from clipguard.record.wording import counting, interval, model_digest, name_of, number, verdict

NONE = "none"


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was.

    Attributes:
        what: its name.
        old: as it was, in words.
        new: as it is.
        note: what to make of it, if anything.
    """

    what: str
    old: str
    new: str
    note: str = ""


def changes(old: AuditRecord, new: AuditRecord) -> list[Change]:
    """All that differs between two records, the decision first.

    Times, settings and the order of things are no differences.
    """
    return [*_facts(old, new), *_accuracy(old, new), *_findings(old, new), *_lines(old, new)]


FACTS: Mapping[str, Callable[[AuditRecord], str]] = {
    "decision": lambda record: f"{verdict(record).word} (exit code {verdict(record).exit_code})",
    "model": name_of,
    "sha256 of the model": lambda record: model_digest(record) or NONE,
    "policy": lambda record: record.gate.policy if record.gate else NONE,
    "sha256 of the policy": lambda record: record.gate.policy_sha256 if record.gate else NONE,
    "reference": lambda record: record.reference.sha256 if record.reference else NONE,
    "class list": lambda record: record.probe.class_names_sha256 if record.probe else NONE,
    "complete": lambda record: "yes" if record.complete else "no",
    "clipguard": lambda record: record.tool.version,
}


def _facts(old: AuditRecord, new: AuditRecord) -> Iterator[Change]:
    for what, tell in FACTS.items():
        before, after = tell(old), tell(new)
        if before != after:
            yield Change(what, before, after)


def _accuracy(old: AuditRecord, new: AuditRecord) -> Iterator[Change]:
    before = old.probe.clean_accuracy if old.probe else None
    after = new.probe.clean_accuracy if new.probe else None
    if before != after:
        yield Change("clean accuracy", interval(before), interval(after), _apart(before, after))


def _apart(before: Rate | None, after: Rate | None) -> str:
    """Whether two rates differ by more than their intervals explain."""
    if before is None or after is None:
        return ""
    apart = before.high < after.low or after.high < before.low
    return "beyond the intervals" if apart else "the intervals overlap"


def _findings(old: AuditRecord, new: AuditRecord) -> Iterator[Change]:
    before, after = _candidates(old), _candidates(new)
    for about in dict.fromkeys((*before, *after)):
        first, second = before.get(about), after.get(about)
        detector, target, family = about
        what = f"{detector}: {family} trigger for {target!r}"
        if first is None or second is None:
            told = [NONE if row is None else f"ASR {interval(row.asr)}" for row in (first, second)]
            yield Change(what, told[0], told[1], "new" if first is None else "gone")
        elif (first.asr, first.statistic) != (second.asr, second.statistic):
            told = [f"ASR {interval(r.asr)}, {number(r.statistic)}" for r in (first, second)]
            yield Change(what, told[0], told[1], _apart(first.asr, second.asr))


def _candidates(record: AuditRecord) -> dict[tuple[str, str, str], Candidate]:
    """The strongest of each detector, class and family."""
    rows = [(found.name, row) for found in record.detectors for row in found.candidates]
    return {(name, row.target, row.family): row for name, row in reversed(rows)}


def _lines(old: AuditRecord, new: AuditRecord) -> Iterator[Change]:
    before, after = _checks(old), _checks(new)
    for about in dict.fromkeys((*before, *after)):
        told = [_told(rows.get(about)) for rows in (before, after)]
        if told[0] != told[1]:
            yield Change(about[0], *told)


def _checks(record: AuditRecord) -> dict[tuple[str, str, int], Check]:
    """Lines by their key; the families of one key are told apart, and so are lines alike."""
    found: dict[tuple[str, str, int], Check] = {}
    for check in record.gate.checks if record.gate else ():
        family = check.limit if check.key.endswith(".families") else ""
        number = sum(key[:2] == (check.key, family) for key in found)
        found[check.key, family, number] = check
    return found


def _told(check: Check | None) -> str:
    if check is None:
        return NONE
    return f"{check.result.value}{counting(check)}: {check.value}, limit {check.limit}"
