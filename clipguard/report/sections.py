"""What a report says, once, in order: a new figure goes here, and every format shows it.

The first screen is `verdict.py`; the searches and the repairs speak in `findings.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

from clipguard.record import AuditRecord, CheckpointRecord, Decision
from clipguard.record.schema import dumps
from clipguard.record.wording import TOLD, WORDS, counting, name_of, verdict
from clipguard.report.against import reference_blocks
from clipguard.report.blocks import Block, Cell, Fact, Facts, Items, Notes, Section, Table, measured
from clipguard.report.findings import (
    evidence_blocks,
    export_blocks,
    purification_blocks,
    reinversion_blocks,
    targets_blocks,
)
from clipguard.report.glossary import GLOSSARY
from clipguard.report.triggers import triggers_blocks
from clipguard.report.verdict import accuracy, verdict_blocks
from clipguard.report.waivers import waiver_blocks
from clipguard.text_safety import safe_text

WORST_FIRST = (Decision.FAIL, Decision.INCONCLUSIVE, Decision.PASS)


def sections(record: AuditRecord, leaves_out: Collection[str] = ()) -> tuple[Section, ...]:
    """Everything that a report on `record` says; the first section is the verdict.

    Args:
        record: the record.
        leaves_out: keys of sections that nobody will see; the one with digests takes a while.
    """
    reproduce = () if "reproduce" in leaves_out else tuple(_reproduce(record))
    said = verdict(record)
    policy = f", policy {record.gate.policy}" if record.gate else ""
    name = safe_text(name_of(record), 60)  # a long one must not push the exit code out
    headline = f"{said.word}: {name} (exit code {said.exit_code}{policy})"
    whole = (
        Section("verdict", headline, tuple(verdict_blocks(record))),
        Section("waivers", "Waivers", tuple(waiver_blocks(record))),
        Section("errors", "Errors", tuple(_errors(record))),
        Section("warnings", "Warnings", tuple(_warnings(record))),
        Section("triggers", "Triggers, and what they do", tuple(triggers_blocks(record))),
        Section("targets", "Target classes", tuple(targets_blocks(record))),
        Section("evidence", "Evidence", tuple(evidence_blocks(record))),
        Section("reference", "The reference", tuple(reference_blocks(record))),
        Section("purification", "Purification", tuple(purification_blocks(record))),
        Section("reinversion", "New search through the repair", tuple(reinversion_blocks(record))),
        Section("coverage", "What was tested, and what was not", tuple(_coverage(record))),
        Section("power", "What a pass is worth", tuple(_power(record))),
        Section("export", "Exported file", tuple(export_blocks(record))),
        Section("checkpoint", "Checkpoint and images", tuple(_checkpoint(record))),
        Section("checks", _checks_heading(record), tuple(_checks(record))),
        Section("reproduce", "How to reproduce", reproduce),
        Section("glossary", "Glossary", (GLOSSARY,)),
    )
    return tuple(section for section in whole if section.blocks)


def _checks_heading(record: AuditRecord) -> str:
    results = [check.result for check in record.gate.checks] if record.gate else []
    counts = {WORDS[one]: results.count(one) for one in WORST_FIRST}
    return "Policy checks: " + ", ".join(f"{n} {word.lower()}" for word, n in counts.items() if n)


def _checks(record: AuditRecord) -> Iterator[Block]:
    if record.gate is None:
        return
    worst_first = sorted(
        record.gate.checks, key=lambda check: (not check.counts, WORST_FIRST.index(check.result))
    )
    rows = tuple(
        (
            Cell(
                WORDS[check.result] + counting(check),
                decision=check.result,
            ),
            Cell(check.key, more=check.reason),
            Cell(check.value),
            Cell(check.limit),
        )
        for check in worst_first
    )
    caption = "Every line of the policy against what was measured"
    yield Table(caption, ("Result", "Check", "Value", "Limit"), rows, name=1)


def _coverage(record: AuditRecord) -> Iterator[Block]:
    tested, gaps = record.coverage.tested, record.coverage.not_tested
    unlisted = "Triggers of kinds that clipguard does not know." if tested else "Everything."
    yield Items(tested or ("Nothing was tested.",), f"Tested ({len(tested)})")
    yield Items(
        tuple(f"{gap.what}: {gap.why}" for gap in gaps) or (unlisted,),
        f"Not tested ({len(gaps)})",
    )


def _power(record: AuditRecord) -> Iterator[Block]:
    power = record.coverage.power
    rows = tuple(
        (
            Cell(row.attack),
            Cell(f"found: {round(row.failed.value * row.failed.n)} of {row.failed.n}"),
            measured(row.failed),
            Cell(row.side),
        )
        for row in power
    )
    if rows:
        head = ("Attack", "Planted backdoors", "Share found", "Side of the lab's zoo")
        yield Table(
            "Models of the lab with a planted backdoor: how many of them such a scan finds",
            head,
            rows,
        )
    if any(row.side == "calibration" for row in power):
        yield Notes(("The limits were set on the calibration side, so its figures flatter.",))


def _warnings(record: AuditRecord) -> Iterator[Block]:
    told = (
        *(record.checkpoint.notes if record.checkpoint else ()),
        *(record.probe.warnings if record.probe else ()),
    )
    if told:
        yield Items(told)


def _errors(record: AuditRecord) -> Iterator[Block]:
    failed = [error for error in record.errors if not error.out_of_time]
    if failed:
        yield Notes(("An error never counts as a pass.",))
        yield Items(tuple(f"{e.stage}, exit code {e.exit_code}: {e.message}" for e in failed))


def _told_by(file: CheckpointRecord) -> str:
    """How the architecture was told, where shapes fit several."""
    choice = file.architecture_choice
    if choice is None or not choice.rivals:
        return ""
    if not choice.images:
        return f", {TOLD[choice.by]}"
    return (
        f", {TOLD[choice.by]}; of {choice.images} images it alone reads {choice.only_chosen} "
        f"rightly, {' and '.join(choice.rivals)} alone {choice.only_rival}"
    )


def _checkpoint(record: AuditRecord) -> Iterator[Block]:
    file, probe = record.checkpoint, record.probe
    if file is None:
        yield Notes(("The file was not identified, so nothing here is about its weights.",))
    else:
        yield Facts(
            (
                Fact("File", file.name),
                Fact("Architecture", f"{file.architecture}, {file.image_size} px{_told_by(file)}"),
                Fact("Parameters", f"{file.parameters:,}"),
                Fact("Size", f"{file.size_bytes:,} bytes"),
                Fact("Format, by content", file.container),
                *(Fact("Beside it", f"{one.name} {one.says}") for one in file.others),
            )
        )
    if probe is not None:
        counted = {row.measured for row in record.detectors if row.measured is not None}
        fewer = ", ".join(str(n) for n in sorted(counted) if n < probe.measure)
        searched = f"; those of a search on {fewer}" if fewer else ""
        yield Facts(
            (
                Fact("Images from", probe.source),
                Fact("Clean accuracy", accuracy(probe)),
                Fact("Classes", str(probe.classes)),
                Fact("sha256 of the class list", probe.class_names_sha256, code=True),
                Fact("Labels", "true classes" if probe.labelled else "pseudo-labels"),
                Fact("Triggers searched on", f"{probe.optimise} images"),
                Fact("Triggers chosen on", f"{probe.select} images"),
                Fact("A repair is tuned on", "both, and unlabelled images where there are any"),
                Fact("Rates measured on", f"{probe.measure} images, never tuned on{searched}"),
                Fact("Could not be read", f"{probe.skipped} images"),
            )
        )


def _reproduce(record: AuditRecord) -> Iterator[Block]:
    yield Facts(
        (
            Fact("Command", record.command, code=True),
            Fact("Run at", f"{record.times.created} (UTC)"),
            *(Fact(f"Time, {k}", f"{spent:.1f} s") for k, spent in record.times.seconds.items()),
        )
    )
    settings = (Fact(key, _setting(value)) for key, value in record.settings.items())
    yield Facts(tuple(settings), "Settings")
    environment = (Fact(key, value) for key, value in record.environment.items())
    yield Facts((Fact("clipguard", record.tool.version), *environment), "Environment")
    digests = _digests(
        ("this record (audit.json)", hashlib.sha256(dumps(record).encode("ascii")).hexdigest()),
        ("the policy", record.gate.policy_sha256 if record.gate else None),
        ("the calibration", record.calibration.sha256),
    )
    yield Facts(tuple(digests), "Digests")
    yield Notes(
        (
            "Decide again with another policy, on any machine: "
            "clipguard gate audit.json --policy FILE",
        )
    )


def _digests(*known: tuple[str, str | None]) -> Iterator[Fact]:
    return (Fact(f"sha256 of {what}", digest, code=True) for what, digest in known if digest)


def _setting(value: float | str | bool | None) -> str:
    if value is None:
        return "not set"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
