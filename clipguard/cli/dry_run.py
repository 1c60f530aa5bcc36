"""What `scan --dry-run` prints."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipguard.errors import PASS, ClipguardError, worst_exit_code
from clipguard.stopping import ends_soon
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard import ScanOptions
    from clipguard.audit.dry_run import DryRun
    from clipguard.record import AuditRecord

NARROW, WIDE, LABEL = 40, 100, 15
LONG = 2000
GROUNDS = {
    "base": "the reference, which it was made from",
    "peer": "the reference, an unrelated model",
    "band": "a null band of known-clean models",
    "self": "none: the model is looked at alone",
}


def foretold(
    models: list[Path],
    places: list[tuple[Path, str | None]],
    policy: str,
    options: ScanOptions,
    quiet: bool,
) -> int:
    """Say what a scan of each model would do; the gravest exit code."""
    from clipguard.audit.dry_run import dry_run
    from clipguard.audit.options import options_from
    from clipguard.cli.show import named, progress_bar
    from clipguard.policy.judge import load_policy

    wanted, codes = options_from(load_policy(policy), options), [PASS]
    for model, (folder, _) in zip(models, places, strict=True):
        try:
            with ends_soon(), progress_bar(quiet) as progress:
                found = dry_run(model, wanted, folder, progress=progress)
            typer.echo(told(found, wanted.budget_s))
        except ClipguardError as error:
            sys.stderr.write(f"error: {named(model, error)}\n")
            codes.append(error.exit_code)
    return worst_exit_code(codes)


def told(dry: DryRun, budget_s: float | None) -> str:
    """Everything that a dry run found, wrapped to the terminal.

    Args:
        dry: made by `dry_run`.
        budget_s: seconds that the scan may take.
    """
    columns = min(WIDE, max(NARROW, shutil.get_terminal_size((WIDE, 24)).columns))
    record = dry.record
    name = record.checkpoint.name if record.checkpoint else ""
    lines = [f"dry run: {name}, nothing was searched"]
    rows = [*_model(record), *_images(record), *_work(dry, budget_s), *_outlook(record)]
    for label, text in rows:
        lines += _wrapped(label, text, columns)
    return "\n".join(lines)


def _wrapped(label: str, text: str, columns: int) -> list[str]:
    shown = safe_text(text, LONG)
    parts = textwrap.wrap(shown, columns - LABEL - 2, break_on_hyphens=False) or ["-"]
    first, *rest = parts
    return [f"  {label:{LABEL}}{first}", *(f"  {'':{LABEL}}{line}" for line in rest)]


def _model(record: AuditRecord) -> Iterator[tuple[str, str]]:
    known = record.checkpoint
    if known is None:
        return
    choice = known.architecture_choice
    shown = f"{known.architecture}, {known.image_size} px"
    if choice and choice.by == "default":
        rivals = " or ".join(choice.rivals)
        shown += f", or {rivals}: the scan compares them on images, --arch says it"
    yield "architecture", shown
    for note in known.notes:
        yield "note", note
    if record.reference:
        yield "reference", f"{record.reference.name}: {record.reference.says}"


def _images(record: AuditRecord) -> Iterator[tuple[str, str]]:
    probe = record.probe
    if probe is None:
        return
    parts = f"{probe.optimise:,} to search on, {probe.select:,} to choose on"
    yield "images", f"{probe.source}: {parts}, {probe.measure:,} to measure on"
    yield "classes", f"{probe.classes:,}, sha256 {probe.class_names_sha256[:12]}"
    read = probe.clean_accuracy
    if read is None:
        yield "clean accuracy", "not known: the true classes of the images are not known"
    else:
        yield "clean accuracy", f"{read.value:.0%} in a look at {read.n} images"
    for warning in probe.warnings:
        yield "note", warning
    for what in record.coverage.tested:
        yield "searches", what
    for gap in record.coverage.not_tested:
        yield "leaves out", f"{gap.what}: {gap.why}"


def _work(dry: DryRun, budget_s: float | None) -> Iterator[tuple[str, str]]:
    told = dry.forecast
    yield "passes", f"{told.passes:,.0f} of an image forward and backward, {told.prompts:,} prompts"
    yield "time", f"{_span(dry.load_s + told.search_s)} until a decision"
    if told.export_s:
        yield "", f"{_span(told.export_s)} for an export on a pass"
    if dry.record.settings.get("purify") != "never":
        yield "", "a repair after a fail comes on top, about as long again"
    if budget_s is not None and budget_s < dry.load_s + told.search_s:
        yield "", f"the budget of {budget_s:g} s ends it before; what is left is not tested"
    yield "memory", f"about {told.memory / 1e9:.1f} GB"


def _outlook(record: AuditRecord) -> Iterator[tuple[str, str]]:
    from clipguard.audit.outlook import ground, missing

    yield "ground", GROUNDS[ground(record)]
    left = missing(record)
    policy = record.gate.policy if record.gate else ""
    if left:
        yield "a pass", f"is not possible under the policy {policy}; it lacks:"
        for check in dict.fromkeys(check.reason for check in left):
            yield "", f"- {check}"
    else:
        yield "a pass", f"is possible under the policy {policy}, if nothing is found"


def _span(seconds: float) -> str:
    """A time as a person says it: no more digits than there are."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
