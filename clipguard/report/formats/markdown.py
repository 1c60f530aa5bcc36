"""A short page for a job summary: verdict first, at most 60 lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clipguard.record import AuditRecord, Decision
from clipguard.record.wording import (
    WORDS,
    change_told,
    interval,
    name_of,
    not_kept,
    power_told,
    verdict,
)
from clipguard.text_safety import safe_text

if TYPE_CHECKING:  # types.py imports torch, which renderings do without
    from clipguard.report.roles import Renderer

MARKS = {Decision.PASS: "✅", Decision.INCONCLUSIVE: "⚠️", Decision.FAIL: "❌"}
_NOT_COUNTED = {True: "", False: " (not counted)"}
CHECKS, TARGETS, GAPS, REASONS = 15, 5, 6, 4


@dataclass(frozen=True, kw_only=True)
class Markdown:
    """GitHub-flavoured, for `$GITHUB_STEP_SUMMARY`."""

    SUFFIX: ClassVar[str] = ".md"

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        lines = [*_head(record), *_checks(record), *_targets(record)]
        lines += [*_reference(record), *_purification(record), *_export(record)]
        lines += _coverage(record)
        return "\n".join(lines) + "\n"


METHOD: type[Renderer] = Markdown


def escape(text: object, limit: int = 80) -> str:
    """Text from outside as Markdown that shows it and does nothing else.

    Every ASCII punctuation mark is escaped, which CommonMark allows, so that no mark can start
    markup, HTML, a table cell, a link or an automatic link.
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", safe_text(text, limit))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, led by an empty one; cells are Markdown already. None without rows."""
    if not rows:
        return []
    cells = [head, ["---"] * len(head), *rows]
    return ["", *(f"| {' | '.join(row)} |" for row in cells)]


def _head(record: AuditRecord) -> list[str]:
    said = verdict(record)
    lines = [f"## {MARKS[said.decision]} {said.word}: {escape(name_of(record))}", ""]
    reasons = (record.gate.reasons if record.gate else ()) or (said.why,)
    lines += [f"- {escape(reason, 300)}" for reason in reasons[:REASONS]]
    if len(reasons) > REASONS:
        lines.append(f"- and {len(reasons) - REASONS} more")
    gate = record.gate
    policy = f"policy {escape(gate.policy)} ({gate.policy_sha256[:12]}), " if gate else ""
    digest = f", sha256 {escape(record.checkpoint.sha256[:12])}" if record.checkpoint else ""
    return [*lines, "", f"Exit code {said.exit_code}, {policy}{escape(_maker(record))}{digest}"]


def _maker(record: AuditRecord) -> str:
    return f"{record.tool.name} {record.tool.version}"


def _checks(record: AuditRecord) -> list[str]:
    if record.gate is None:
        return []
    order = (Decision.FAIL, Decision.INCONCLUSIVE, Decision.PASS)
    checks = sorted(record.gate.checks, key=lambda check: order.index(check.result))
    rows = [
        [
            f"{MARKS[check.result]} {WORDS[check.result]}{_NOT_COUNTED[check.counts]}",
            escape(check.key),
            escape(check.value, 40),
            escape(check.limit),
        ]
        for check in checks[:CHECKS]
    ]
    lines = table(["Result", "Check", "Value", "Limit"], rows)
    left = len(checks) - CHECKS
    return [*lines, "", f"{left} more checks in the report."] if left > 0 else lines


def _targets(record: AuditRecord) -> list[str]:
    found = [each for detector in record.detectors for each in detector.candidates]
    rows = [
        [escape(each.target, 60), escape(each.family), interval(each.asr), interval(each.natural)]
        for each in found[:TARGETS]
    ]
    return table(["Target class", "Family", "ASR (95 %)", "Without trigger"], rows)


def _reference(record: AuditRecord) -> list[str]:
    known = record.reference
    if known is None:
        return []
    name, told = escape(known.name, 60), escape(change_told(known), 600)
    return ["", f"**Change from the reference {name}**, a hint at most: {told}"]


def _purification(record: AuditRecord) -> list[str]:
    purified = record.purification
    if purified is None:
        return []
    before, after = purified.before, purified.after
    rows = [
        ["CA", interval(before.clean_accuracy), interval(after.clean_accuracy)],
        ["CA, target class", interval(before.target_accuracy), interval(after.target_accuracy)],
        ["ASR", interval(before.asr), interval(after.asr)],
        ["PA", interval(before.poisoned_accuracy), interval(after.poisoned_accuracy)],
    ]
    lines = table(["Purification", "Before", "After"], rows)
    return [*lines, "", f"**Scope:** {escape(purified.statement, 300)}"]


def _export(record: AuditRecord) -> list[str]:
    gone = not_kept(record)
    return ["", f"**No exported file:** {escape(gone, 400)}"] if gone else []


def _coverage(record: AuditRecord) -> list[str]:
    tested, gaps = record.coverage.tested, record.coverage.not_tested
    shown = ", ".join(escape(what) for what in tested[:GAPS])
    more = f" and {len(tested) - GAPS} more" if len(tested) > GAPS else ""
    lines = ["", f"**Tested ({len(tested)}):** {shown or 'nothing'}{more}", ""]
    if record.coverage.power:
        lines += [f"**Planted backdoors failed:** {escape(power_told(record), 400)}", ""]
    lines.append(f"**Not tested ({len(gaps)}):**{'' if gaps else ' nothing listed'}")
    lines += ["", *(f"- {escape(gap.what)}: {escape(gap.why, 160)}" for gap in gaps[:GAPS])]
    if len(gaps) > GAPS:
        lines.append(f"- and {len(gaps) - GAPS} more")
    return lines
