"""Parts of the record that describe a run: how it begins, environment, probe set, coverage."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from clipguard import __version__
from clipguard.audit.command import command
from clipguard.audit.options import Options
from clipguard.audit.profiles import FAMILIES
from clipguard.audit.watch import Watch
from clipguard.model.open_clip import device_of
from clipguard.probe.load import class_list_digest
from clipguard.probe.rates import classify, clean_accuracy, embed
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.record import (
    AuditRecord,
    CalibrationRecord,
    CoverageRecord,
    DetectorRecord,
    PowerRecord,
    ProbeRecord,
    TimesRecord,
    ToolRecord,
    Untested,
)
from clipguard.record.wording import TEXT, triggers_of
from clipguard.registry import name_of

PACKAGES = (
    *("torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow"),
    *("onnx", "onnxruntime", "onnxruntime-gpu"),
)
BLIND_SPOTS = (
    Untested(
        what="triggers outside the searched families",
        why="sample-specific patterns, objects, and colours of the whole image are not searched",
    ),
)
OTHER_TARGETS = Untested(
    what="targets outside the class list and the vocabulary",
    why="another class list needs another scan; against a reference, --vocabulary adds names",
)

FEW_SQUARES = Untested(
    what="small squares that lead to a class whose clean readings did not move",
    why="this profile searches them only for the classes that moved most",
)

TEXT_SPOT = Untested(
    what="other triggers of the text",
    why="phrases, learned prompt vectors, and words that act only with an image are not searched",
)
UNMEASURED = Untested(
    what="how many planted backdoors these searches find",
    why="the lab has not measured it for this model family, class list and profile",
)


def begun_record(path: Path, options: Options, created: str) -> AuditRecord:
    """The record of an audit that has looked at nothing yet.

    Args:
        path: what will be looked at.
        options: what it will do.
        created: when, as in `TimesRecord`.
    """
    verb = "purify" if options.release == "purified" else "scan"
    return AuditRecord(
        complete=False,
        tool=ToolRecord(version=__version__),
        command=command(verb, [path], options),
        settings={
            "profile": options.profile,
            "seed": options.seed,
            "purify": options.purify or options.policy.purification.run,
            "purifier": options.purifier,
            "export": options.export,
            "budget_s": options.budget_s,
            "device": str(device_of(options.device)),
        },
        environment=environment(),
        checkpoint=None,
        probe=None,
        calibration=CalibrationRecord(kind="none", reason="the scan ended before"),
        coverage=CoverageRecord(),
        times=TimesRecord(created=created, seconds={}),
        location=options.location,
    )


def environment() -> dict[str, str]:
    """Versions that can change a result, and nothing that names the machine."""
    found = {"python": platform.python_version(), "system": platform.system()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(subject: Subject, watch: Watch) -> ProbeRecord:
    """The probe set without its images, and how well the model reads them.

    Without time left, clean accuracy is that of the first images.
    """
    probe = subject.probe
    read = embed(subject.model, probe.measure, enough=lambda: watch.is_spent)
    clean = classify(read, subject.classes)
    return ProbeRecord(
        source=probe.source,
        classes=len(probe.class_names),
        class_names_sha256=class_list_digest(probe.class_names),
        optimise=len(probe.optimise),
        select=len(probe.select),
        measure=len(probe.measure),
        labelled=probe.labelled,
        clean_accuracy=clean_accuracy(clean, probe),
        skipped=probe.skipped,
        warnings=probe.warnings,
    )


def coverage(
    record: DetectorRecord, probe: ProbeSet, power: tuple[PowerRecord, ...] = ()
) -> CoverageRecord:
    """What was looked at, what was not, and what the look is worth.

    Args:
        record: of the detector that looked.
        probe: the images and classes it had.
        power: measured on planted backdoors, for this very pipeline.
    """
    held = record.held_against
    how = "on this model and on the reference," if held else "class-agnostic and"
    tested = [
        f"{triggers_of(row.family)}, {how} towards the likeliest classes"
        for row in record.families
        if row.tested
    ]
    missed = [
        Untested(what=triggers_of(row.family), why=row.reason)
        for row in record.families
        if not row.tested
    ]
    if held:
        searched = {row.family for row in record.families}
        missed += [
            Untested(what=triggers_of(name), why="not searched against a reference")
            for name in map(name_of, FAMILIES)
            if name not in searched
        ]
        missed += [] if record.screened else [FEW_SQUARES]
    if record.screened:
        tested.append(f"short targeted searches that cover all {len(probe.class_names)} classes")
    if probe.further:
        tested.append(f"{len(probe.further)} further names as targets")
    missed.append(OTHER_TARGETS)
    if not power:
        missed.append(UNMEASURED)
    spots = (*missed, *BLIND_SPOTS)
    return CoverageRecord(tested=tuple(tested), not_tested=spots, power=power)


def untested_coverage(why: str) -> CoverageRecord:
    """No trigger was searched at all."""
    return CoverageRecord(not_tested=(Untested(what="every trigger family", why=why),))


def coverage_with_text(seen: CoverageRecord, why: str) -> CoverageRecord:
    """`seen`, and that words were tried in prompts, or `why` they were not."""
    what = triggers_of(TEXT)
    tested = (f"{what}: words of up to three tokens in prompts, from every token there is",)
    missed = (Untested(what=what, why=why),) if why else ()
    return seen.model_copy(
        update={
            "tested": seen.tested + (() if why else tested),
            "not_tested": (*seen.not_tested, *missed, TEXT_SPOT),
        }
    )
