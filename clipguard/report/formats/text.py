"""A plain summary for a terminal: verdict, reasons, tables. No colour codes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clipguard.record import AuditRecord, Check, PurificationRecord, ReferenceRecord
from clipguard.record.wording import (
    WORDS,
    change_told,
    interval,
    name_of,
    not_kept,
    number,
    percent,
    power_told,
    tuned_against,
    verdict,
)
from clipguard.text_safety import safe_text

if TYPE_CHECKING:  # types.py imports torch, which renderings do without
    from clipguard.report.roles import Renderer

WIDTH = 100
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Text:
    """What `scan` and `gate` print."""

    SUFFIX: ClassVar[str] = ".txt"

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        parts = [
            _head(record),
            _checks(record),
            _families(record),
            _candidates(record),
            _reference(record.reference),
            _purification(record.purification),
            _export(record),
            _coverage(record),
        ]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


METHOD: type[Renderer] = Text


def _plain(text: object, limit: int = 60) -> str:
    return safe_text(text, limit)


def _said(label: str, text: str) -> list[str]:
    """A labelled sentence; no line begins with text from outside."""
    lines = textwrap.wrap(_plain(text, 600), WIDTH - 12, break_on_hyphens=False) or ["-"]
    return [f"  {label:<9} {lines[0]}", *(f"  {'':<7} | {line}" for line in lines[1:])]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the first column is always ours."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, ["-" * width for width in widths], *rows)
    ]
    return [title, *(f"  {line}" for line in lines)]


def _head(record: AuditRecord) -> list[str]:
    said = verdict(record)
    policy = f", policy {_plain(record.gate.policy)}" if record.gate else ""
    lines = [f"{said.word}: {_plain(name_of(record))} (exit code {said.exit_code}{policy})"]
    reasons = (record.gate.reasons if record.gate else ()) or (said.why,)
    for index, reason in enumerate(reasons[:SHOWN]):
        lines += _said("why" if index == 0 else "and", reason)
    if len(reasons) > SHOWN:
        lines += _said("and", f"{len(reasons) - SHOWN} more, see the checks")
    if record.checkpoint:
        lines += _said("sha256", record.checkpoint.sha256)
    if record.gate:
        lines += _said("policy", f"{record.gate.policy}, sha256 {record.gate.policy_sha256}")
    return lines


def _checks(record: AuditRecord) -> list[str]:
    rows = [
        [_result(check), _plain(check.key), _plain(check.value, 30), _plain(check.limit)]
        for check in (record.gate.checks if record.gate else ())
    ]
    return _table("Policy checks", ["result", "key", "value", "limit"], rows)


def _result(check: Check) -> str:
    return WORDS[check.result] if check.counts else f"({WORDS[check.result]}, not counted)"


def _families(record: AuditRecord) -> list[str]:
    rows = [
        [
            "tested" if row.tested else "NOT TESTED",
            _plain(row.family),
            number(row.statistic),
            f"{min(row.null):.3g} to {max(row.null):.3g}" if row.null else "none",
            number(row.excess),
        ]
        for detector in record.detectors
        for row in detector.families
    ]
    head = ["search", "family", "statistic", "known-clean models", "excess"]
    return _table("Trigger families", head, rows)


def _candidates(record: AuditRecord) -> list[str]:
    rows = [
        [
            f"{rank}.",
            _plain(found.target, 40),
            _plain(found.family),
            interval(found.asr),
            percent(found.natural.value),
        ]
        for detector in record.detectors
        for rank, found in enumerate(detector.candidates[:SHOWN], start=1)
    ]
    head = ["#", "target class", "family", "ASR (95 %)", "without trigger"]
    return _table("Targets, worst first", head, rows)


def _reference(known: ReferenceRecord | None) -> list[str]:
    if known is None:
        return []
    return [
        "Change from the reference",
        *_said("reference", f"{known.name}, sha256 {known.sha256}"),
        *_said("change", change_told(known)),
    ]


def _purification(purified: PurificationRecord | None) -> list[str]:
    if purified is None:
        return []
    before, after = purified.before, purified.after
    rows = [
        ["CA", interval(before.clean_accuracy), interval(after.clean_accuracy)],
        ["CA, target class", interval(before.target_accuracy), interval(after.target_accuracy)],
        ["ASR", interval(before.asr), interval(after.asr)],
        ["PA", interval(before.poisoned_accuracy), interval(after.poisoned_accuracy)],
    ]
    lines = _table(f"Purification ({_plain(purified.method)})", ["rate", "before", "after"], rows)
    lines += _said("against", tuned_against(purified))
    return [*lines, *_said("scope", purified.statement)]


def _export(record: AuditRecord) -> list[str]:
    export = record.export
    if export is None:
        return []
    rows = [
        [f"batch {row.batch}", f"{row.relative_error:.1e}", percent(row.top1_agreement)]
        for row in export.parity
    ]
    title = f"ONNX parity: {_plain(export.file)} ({export.head} head, {_plain(export.provider)})"
    lines = _table(title, ["images", "relative error", "same first class"], rows)
    gone = not_kept(record)
    return [*lines, *(_said("NO FILE", gone) if gone else ())]


def _coverage(record: AuditRecord) -> list[str]:
    lines = [f"Tested ({len(record.coverage.tested)})"]
    for what in record.coverage.tested:
        lines += _said("tested", what)
    if record.coverage.power:
        lines += _said("power", f"planted backdoors failed: {power_told(record)}")
    lines.append(f"Not tested ({len(record.coverage.not_tested)})")
    for gap in record.coverage.not_tested:
        lines += _said("NOT", f"{gap.what}: {gap.why}")
    for warning in record.probe.warnings if record.probe else ():
        lines += _said("warning", warning)
    for error in record.errors:
        lines += _said("error", f"{error.stage}: {error.message}")
    return lines
