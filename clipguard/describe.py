"""Parts of the record that describe a run: environment, probe set, coverage."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from clipguard.probe import class_list_digest
from clipguard.record import CoverageRecord, DetectorRecord, PowerRecord, ProbeRecord, Untested
from clipguard.types import ProbeSet
from clipguard.wording import triggers_of

PACKAGES = ("torch", "open_clip_torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
BLIND_SPOTS = (
    Untested(
        what="triggers outside the searched families",
        why="sample-specific patterns, objects, and colours of the whole image are not searched",
    ),
    Untested(what="triggers in the text", why="only the image side is searched"),
    Untested(what="targets outside the class list", why="another class list needs another scan"),
)

UNMEASURED = Untested(
    what="how many planted backdoors these searches find",
    why="the lab has not measured it for this model family, class list and profile",
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


def describe(probe: ProbeSet) -> ProbeRecord:
    """The probe set without its images."""
    return ProbeRecord(
        source=probe.source,
        classes=len(probe.class_names),
        class_names_sha256=class_list_digest(probe.class_names),
        templates=probe.templates,
        optimise=len(probe.optimise),
        select=len(probe.select),
        measure=len(probe.measure),
        labelled=probe.labelled,
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
    tested = [
        f"{triggers_of(row.family)}, class-agnostic and towards the likeliest classes"
        for row in record.families
        if row.tested
    ]
    missed = [
        Untested(what=triggers_of(row.family), why=row.reason)
        for row in record.families
        if not row.tested
    ]
    if record.screened:
        tested.append(f"short targeted searches that cover all {len(probe.class_names)} classes")
    if not power:
        missed.append(UNMEASURED)
    spots = (*missed, *BLIND_SPOTS)
    return CoverageRecord(tested=tuple(tested), not_tested=spots, power=power)
