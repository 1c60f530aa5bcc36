"""The lines of a decision that do not pass, as views of code and bills of materials list them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from clipguard.record import (
    AuditRecord,
    Check,
    Decision,
    GateRecord,
    Outcome,
    Severity,
)
from clipguard.record.wording import UNJUDGED, name_of
from clipguard.report.rules import RULE_OF_WAIVER, rule_of, told
from clipguard.text_safety import safe_text

Level = Literal["error", "warning", "note"]
LEVELS: dict[Decision, Level] = {Decision.FAIL: "error", Decision.INCONCLUSIVE: "warning"}
ORDER = ("error", "warning", "note")
OUTSIDE = "outside-the-repository"
MOST = 5000
"""Lines that are listed; GitHub shows no more."""


@dataclass(frozen=True)
class Said:
    """A line to list.

    Attributes:
        rule: its id.
        level: error for a fail, warning where it cannot tell, note where it does not count.
        text: one sentence, from outside.
        about: what it is about, without numbers; unique within a record and the same in the next.
        severity: of the policy, if there was one.
        waived: why it was waived, in a sentence; empty if it was not.
    """

    rule: str
    level: Level
    text: str
    about: str
    severity: Severity | None = None
    waived: str = ""


def said(record: AuditRecord) -> list[Said]:
    """Every line to list, gravest first; none on a pass, but for waivers."""
    gate = record.gate
    if gate is None:
        return [Said("CG605", "warning", UNJUDGED, "unjudged")]
    lines = [*_lines(record, gate), *_waivers(gate)]
    if record.purification is not None and gate.decision is not Decision.PASS:
        scope = f"Scope of the repair: {record.purification.statement}"
        lines.append(Said("CG303", "note", scope, "scope"))
    left = len(lines) - MOST
    if left <= 0:
        return lines
    kept = sorted(lines, key=lambda one: ORDER.index(one.level))[: MOST - 1]
    more = f"{left + 1} more lines are not shown here; all of them are in audit.json"
    return [*kept, Said("CG605", "note", more, "cut")]


def _lines(record: AuditRecord, gate: GateRecord) -> Iterator[Said]:
    seen: Counter[str] = Counter()
    for check in gate.checks:
        # What does not count decides nothing, and still speaks about the file left behind.
        if check.result not in LEVELS or not (gate.decision is not Decision.PASS or check.waived):
            continue
        about = f"{check.key}|{_subject(record, check)}"
        seen[about] += 1
        level = LEVELS[check.result] if check.counts else "note"
        waived, text = waived_by(check, gate), reason_of(check, gate)
        yield Said(rule_of(check), level, text, f"{about}|{seen[about]}", check.severity, waived)


def reason_of(check: Check, gate: GateRecord) -> str:
    """What a line says, behind the waiver that it was waived by."""
    return f"Waived ({waived_by(check, gate)}): {check.reason}" if check.waived else check.reason


def waived_by(check: Check, gate: GateRecord) -> str:
    """The waiver that a line was waived by, in a sentence; nothing if it was not."""
    if not check.waived:
        return ""
    about = ("used", check.key, check.target)
    rows = (row for row in gate.waivers if (row.state, row.check, row.target) == about)
    return next(map(told, rows), "")


def _waivers(gate: GateRecord) -> Iterator[Said]:
    for number, row in enumerate(gate.waivers):
        rule = RULE_OF_WAIVER.get(row.state)
        if rule is not None:
            level: Level = "note" if row.state == "unused" else "warning"
            state = row.state.replace("_", " ") + (f" ({row.why})" if row.why else "")
            text = f"This waiver is {state} and changes nothing: {told(row)}"
            yield Said(rule, level, text, f"waiver|{row.check}|{row.target}|{number}")


def _subject(record: AuditRecord, check: Check) -> str:
    """What a line is about, without numbers, so that an alert survives a retraining."""
    if check.key == "coverage.families":
        return check.limit
    if check.key.startswith("backdoor."):
        found = record.gate.conclusions if record.gate else ()
        bad = {one.detector for one in found if one.outcome is Outcome.BACKDOORED}
        named = [one for one in record.detectors if one.name in bad] or record.detectors[:1]
        return "|".join(f"{found.name}/{found.target}" for found in named)
    return ""


def place_of(record: AuditRecord) -> str:
    """Where the checkpoint lies, as a relative URI with `/`; never a bare name of a file outside.

    A location that is no plain way down from the root, as a stranger's record may hold, is none.
    """
    parts = (record.location or "").split("/")
    plain = all(part not in ("", ".", "..") and "\\" not in part for part in parts)
    if not plain:
        parts = [OUTSIDE, name_of(record)]
    return "/".join(quote(safe_text(part), safe="") for part in parts)
