"""The way of a checkpoint: load, probe, search, measure, judge, purify, export, write.

Each step takes frozen values and returns frozen values. `stages` tells the whole way; `calibrate`,
the lab's bench and the benchmarks call the first steps of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from clipguard.audit.command import how_to_calibrate
from clipguard.audit.coverage import (
    coverage,
    coverage_with_text,
    describe,
    untested_coverage,
)
from clipguard.audit.options import Options
from clipguard.audit.profiles import Profile, profile
from clipguard.audit.release import Release, export, failure, keep, purify
from clipguard.audit.watch import Watch
from clipguard.checkpoint.load import load_checkpoint
from clipguard.detect.null_band import choose_band, family_of, scan_key
from clipguard.detect.power import power_of
from clipguard.detect.reference import compare_with_reference
from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.errors import BudgetSpentError, InconclusiveError
from clipguard.model.open_clip import build_model, device_of
from clipguard.policy.judge import judge
from clipguard.probe.load import load_probe
from clipguard.probe.sets import Subject
from clipguard.record import (
    AuditRecord,
    CheckpointRecord,
    ReferenceRecord,
    TimesRecord,
)


@dataclass(frozen=True, eq=False)
class Suspect:
    """A checkpoint that was loaded, and the images that it is looked at with.

    Attributes:
        subject: the model and its probe set.
        family: name of the model family, for the null band.
        record: what the file is.
        reference: how its weights changed from the reference, if one was given.
    """

    subject: Subject
    family: str
    record: CheckpointRecord
    reference: ReferenceRecord | None


def stages(
    path: Path, record: AuditRecord, options: Options, work: Path, watch: Watch
) -> Iterator[AuditRecord]:
    """The whole way of one checkpoint, with the record as it is after each stage.

    Args:
        path: file or folder.
        record: made by `begun_record`.
        options: what to do.
        work: folder that files are written to.
        watch: time and budget.
    """
    settings = profile(options.profile)
    suspect = load(path, options, settings, watch)
    record = record.model_copy(
        update={
            "checkpoint": suspect.record,
            "reference": suspect.reference,
            "probe": describe(suspect.subject.probe),
        }
    )
    yield record
    record, finding = measure(record, suspect, options, settings, watch)
    yield record
    record = measure_words(record, suspect, options, settings, watch)
    yield record
    if finding is None:
        return
    found = Release(options, suspect.subject, finding, judged(record, options, watch))
    repaired = purify(found, settings.repair, watch)
    yield repaired.record
    released = export(repaired, work, watch)
    yield released.record
    yield keep(released, work, watch)


def judged(
    record: AuditRecord, options: Options, watch: Watch, *, complete: bool = True
) -> AuditRecord:
    """The record with its times and the policy's decision."""
    times = TimesRecord(created=watch.created, seconds=dict(watch.seconds))
    record = record.model_copy(update={"complete": complete, "times": times})
    return record.model_copy(update={"gate": judge(options.policy, record)})


def load(path: Path, options: Options, settings: Profile, watch: Watch) -> Suspect:
    """Load the checkpoint, compare it with its reference, and gather the probe set.

    Raises:
        UsageError: no such file, wrong architecture, reference or probe data.
        RefusedError: the file is not a checkpoint, or opening it could do harm.
    """
    with watch.stage("load"):
        checkpoint = load_checkpoint(path, arch=options.arch)
        model = build_model(checkpoint, device_of(options.device))
    reference = None
    if options.reference is not None:
        with watch.stage("reference"):
            reference = compare_with_reference(checkpoint, options.reference, options.arch)
    with watch.stage("probe"):
        probe = load_probe(model, options.probe, settings.scenes, seed=options.seed)
    family = family_of(checkpoint.architecture)
    return Suspect(Subject(model, probe), family, checkpoint.record, reference)


def key_of(suspect: Suspect, detector: Detector, options: Options, settings: Profile) -> str:
    """Which null band a scan may be compared with: see `scan_key`."""
    return scan_key(
        suspect.family, options.profile, detector, settings.scenes, suspect.subject.probe
    )


def run_detector(
    suspect: Suspect, detector: Detector, null: NullBand | None, options: Options, watch: Watch
) -> Finding:
    """What one detector measures, from the seed of the options.

    Raises:
        InconclusiveError: there was too little to measure, or no time left.
    """
    generator = torch.Generator().manual_seed(options.seed)
    return detector.detect(suspect.subject, null, generator=generator, progress=watch.progress)


def measure(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile, watch: Watch
) -> tuple[AuditRecord, Finding | None]:
    """The record with what the main detector measures, and the triggers behind it.

    A search that came to nothing leaves an error in the record and no finding.
    """
    key = key_of(suspect, settings.detector, options, settings)
    advice = how_to_calibrate(Path(suspect.record.name), options)
    band, told = choose_band(key, options.calibration, advice)
    record = record.model_copy(update={"calibration": told})
    with watch.stage("detect"):
        try:
            finding = run_detector(suspect, settings.detector, band, options, watch)
        except InconclusiveError as error:
            errors = (*record.errors, failure("detect", error))
            seen = untested_coverage(str(error))
            return record.model_copy(update={"errors": errors, "coverage": seen}), None
    seen = coverage(finding.record, suspect.subject.probe, power_of(key))
    return record.model_copy(update={"detectors": (finding.record,), "coverage": seen}), finding


def measure_words(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile, watch: Watch
) -> AuditRecord:
    """The record with what the search for token triggers measures beside it.

    A text tower that cannot be read is not tested; a budget that ran out is an error.
    """
    found, errors, why = record.detectors, record.errors, ""
    with watch.stage("text"):
        try:
            found += (run_detector(suspect, settings.text, None, options, watch).record,)
        except InconclusiveError as error:
            why = str(error)
            if isinstance(error, BudgetSpentError):
                errors += (failure("text", error),)
    seen = coverage_with_text(record.coverage, why)
    return record.model_copy(update={"detectors": found, "errors": errors, "coverage": seen})
