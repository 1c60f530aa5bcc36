"""The way of a checkpoint: load, probe, search, measure, judge, purify, export, write.

Each step takes frozen values and returns frozen values. `stages` tells the whole way; `calibrate`,
the lab's bench and the benchmarks call the first steps of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from clipguard.audit.architecture import settled
from clipguard.audit.command import how_to_calibrate, how_to_compare
from clipguard.audit.coverage import (
    coverage,
    coverage_with_text,
    describe,
    untested_coverage,
)
from clipguard.audit.options import Options, seed_of
from clipguard.audit.profiles import Profile, profile, profile_alone
from clipguard.audit.release import Release, export, failure, keep, purify, rescan
from clipguard.audit.watch import Watch
from clipguard.checkpoint.load import Checkpoint, load_checkpoint
from clipguard.checkpoint.sandbox import Guard
from clipguard.detect.lineage import Reference, described, load_reference, open_reference
from clipguard.detect.null_band import choose_band, family_of, scan_key
from clipguard.detect.power import power_of
from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.detect.score import curve_of, scored
from clipguard.errors import BudgetSpentError, InconclusiveError
from clipguard.export.limits import require_exportable
from clipguard.model.open_clip import build_model, device_of
from clipguard.policy.judge import judge
from clipguard.probe.load import load_probe
from clipguard.probe.sets import Subject
from clipguard.record import (
    AuditRecord,
    CalibrationRecord,
    CheckpointRecord,
    ProbeRecord,
    TimesRecord,
)

NO_BAND = CalibrationRecord(kind="none", reason="a scan against a reference needs no null band")


@dataclass(frozen=True, eq=False)
class Suspect:
    """A checkpoint that was loaded, and the images that it is looked at with.

    Attributes:
        subject: the model and its probe set.
        seed: of every draw.
        family: name of the model family, for the null band.
        record: what the file is.
        reference: the model to hold it against, if one was given.
    """

    subject: Subject
    seed: int
    family: str
    record: CheckpointRecord
    reference: Reference | None


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
    settings = (profile if options.reference else profile_alone)(options.profile)
    try:
        suspect = load(path, options, settings, watch)
    except BudgetSpentError as error:
        yield _nothing_tested(record, "load", error)
        return
    if options.export == "onnx":
        require_exportable(suspect.subject.model.image_tower())
    record = loaded(record, suspect, describe(suspect.subject, watch))
    yield record
    finding: Finding | None = None
    for known in measure(record, suspect, options, settings, watch):
        record, finding = known
        yield record
    record = measure_words(record, suspect, options, settings, watch)
    yield record
    if finding is None:
        return
    judgement = judged(record, options, watch)
    found = Release(
        options,
        suspect.subject,
        suspect.seed,
        finding,
        judgement,
        suspect.family,
        suspect.reference.model if suspect.reference else None,
    )
    repaired = purify(found, settings.repair.by(options.purifier), watch, work)
    yield repaired.record
    repaired = rescan(repaired, settings, watch)
    yield repaired.record
    released = export(repaired, work, watch)
    yield released.record
    yield keep(released, work, watch)


def _nothing_tested(record: AuditRecord, stage: str, error: Exception) -> AuditRecord:
    errors = (*record.errors, failure(stage, error))
    told = untested_coverage(str(error))
    return record.model_copy(update={"errors": errors, "coverage": told})


def loaded(record: AuditRecord, suspect: Suspect, probe: ProbeRecord) -> AuditRecord:
    """The record with what was loaded, and its images."""
    return record.model_copy(
        update={
            "checkpoint": suspect.record,
            "reference": suspect.reference.record if suspect.reference else None,
            "probe": probe,
            "settings": record.settings | {"seed": suspect.seed},
        }
    )


def judged(
    record: AuditRecord, options: Options, watch: Watch, *, complete: bool = True
) -> AuditRecord:
    """The record with its times and the policy's decision."""
    times = TimesRecord(created=watch.created, seconds=dict(watch.seconds))
    record = record.model_copy(update={"complete": complete, "times": times})
    return record.model_copy(update={"gate": judge(options.policy, record, options.waivers)})


def asked_for(path: Path, options: Options, guard: Guard) -> Checkpoint:
    """The checkpoint, read as the options say; errors as of `load_checkpoint`."""
    return load_checkpoint(
        path,
        arch=options.arch,
        text_from=options.text_from,
        lora_base=options.lora_base,
        guard=guard,
    )


def load(path: Path, options: Options, settings: Profile, watch: Watch) -> Suspect:
    """Load the checkpoint, compare it with its reference, and gather the probe set.

    Raises:
        UsageError: no such file, wrong architecture, reference or probe data.
        RefusedError: the file is not a checkpoint, or opening it could do harm.
        BudgetSpentError: there was no time to read it.
    """
    device, guard = device_of(options.device), Guard(options.sandbox, watch.deadline)
    with watch.stage("load"):
        checkpoint = asked_for(path, options, guard)
    seed, other, reference = seed_of(options, checkpoint.record.sha256), None, None
    if options.reference is not None:
        with watch.stage("reference"):
            other = load_reference(options.reference, options.arch, guard)
    with watch.stage("architecture"):
        checkpoint = settled(checkpoint, other, options, seed, watch)
        model = build_model(checkpoint, device)
    if other is not None:
        with watch.stage("reference"):
            reference = open_reference(checkpoint, other, device)
    with watch.stage("probe"):
        probe = load_probe(model, options.probe, settings.scenes, seed=seed)
    family = family_of(checkpoint.architecture)
    return Suspect(Subject(model, probe), seed, family, checkpoint.record, reference)


def key_of(suspect: Suspect, detector: Detector, options: Options, settings: Profile) -> str:
    """Which null band a scan may be compared with: see `scan_key`."""
    return scan_key(
        suspect.family, options.profile, detector, settings.scenes, suspect.subject.probe
    )


def run_detector(
    suspect: Suspect, detector: Detector, null: NullBand | None, watch: Watch
) -> Finding:
    """What one detector measures.

    Raises:
        InconclusiveError: there was too little to measure, or no time left.
    """
    generator = torch.Generator().manual_seed(suspect.seed)
    return detector.detect(suspect.subject, null, generator=generator, progress=watch.progress)


Told = Iterator[tuple[AuditRecord, Finding | None]]
"""The record as it grows, with the triggers behind it; a search that came to nothing has none."""


def measure(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile, watch: Watch
) -> Told:
    """The record with what the main detector measures, again whenever it knows more.

    A search that was cut short or came to nothing leaves an error in the record.
    """
    search = _alone if suspect.reference is None else _against
    told, finding = record, None
    with watch.stage("detect"):
        try:
            for told, finding in search(record, suspect, options, settings, watch):
                yield told, finding
        except InconclusiveError as error:
            said = _nothing_tested(told, "detect", error)
            seen = told.coverage if finding else said.coverage
            yield said.model_copy(update={"coverage": seen}), finding


def _alone(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile, watch: Watch
) -> Told:
    """What the suspect shows by itself, read against a null band if there is one."""
    key = key_of(suspect, settings.detector, options, settings)
    name = Path(suspect.record.name)
    advice = (how_to_compare(name, options), how_to_calibrate(name, options))
    band, told = choose_band(key, options.calibration, advice)
    record = record.model_copy(update={"calibration": told})
    yield record, None
    yield _found(record, suspect, run_detector(suspect, settings.detector, band, watch), key)


def _against(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile, watch: Watch
) -> Told:
    """What the suspect shows and its reference does not."""
    detector, subject, reference = settings.differential, suspect.subject, suspect.reference
    if reference is None:
        raise ValueError("there is no reference to hold the suspect against")
    pair = detector.pair(subject, reference.model)
    told = described(reference.record, pair)
    record = record.model_copy(update={"reference": told, "calibration": NO_BAND})
    yield record, None
    if told.role == "unusable":
        raise InconclusiveError("the reference reads the images differently, so it shows nothing")
    key = scan_key(suspect.family, options.profile, detector, settings.scenes, subject.probe)
    curve = curve_of(detector, told.role)
    finding = None
    for found in detector.compare(pair, seed=suspect.seed, progress=watch.progress):
        finding = scored(found, curve, suspect.family)
        yield _found(record, suspect, finding, key)
    if options.canary and finding is not None:
        canary = settings.canary.sing(
            subject, reference.model, detector, seed=suspect.seed, progress=watch.progress
        )
        tried = finding.record.model_copy(update={"canary": canary})
        yield _found(record, suspect, Finding(tried, finding.triggers), key)


def _found(
    record: AuditRecord, suspect: Suspect, finding: Finding, key: str
) -> tuple[AuditRecord, Finding]:
    seen = coverage(finding.record, suspect.subject.probe, power_of(key))
    return record.model_copy(update={"detectors": (finding.record,), "coverage": seen}), finding


def _words(suspect: Suspect, settings: Profile, watch: Watch) -> Finding:
    reference = None
    if suspect.reference is not None:
        reference = Subject(suspect.reference.model, suspect.subject.probe)
    generator = torch.Generator().manual_seed(suspect.seed)
    return settings.text.compare(
        suspect.subject, reference, generator=generator, progress=watch.progress
    )


def measure_words(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile, watch: Watch
) -> AuditRecord:
    """The record with what the search for token triggers measures beside it.

    A text tower that cannot be read is not tested; a budget that ran out is an error.
    """
    found, errors, why = record.detectors, record.errors, ""
    with watch.stage("text"):
        try:
            found += (_words(suspect, settings, watch).record,)
        except InconclusiveError as error:
            why = str(error)
            if isinstance(error, BudgetSpentError):
                errors += (failure("text", error),)
    seen = coverage_with_text(record.coverage, why)
    return record.model_copy(update={"detectors": found, "errors": errors, "coverage": seen})
