"""One victim in the benchmark: scanned, or scanned and purified, exactly as `scan` would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipguard import __version__
from clipguard.audit.coverage import begun_record, describe, environment
from clipguard.audit.machine import forget_peak, peak_memory
from clipguard.audit.options import Options
from clipguard.audit.pipeline import Suspect, judged, load, loaded, measure, measure_words
from clipguard.audit.profiles import profile
from clipguard.audit.watch import Watch
from clipguard.checkpoint.inspection import sha256_of
from clipguard.detect.roles import Finding
from clipguard.errors import InconclusiveError, RefusedError
from clipguard.lab.bench.cells import (
    MAIN,
    POLICY,
    PROFILE,
    Cell,
    DetectCell,
    PurifyCell,
    Task,
    detector_of,
    literature,
    repair_settings,
    truth_digest,
    write_cell,
)
from clipguard.lab.bench.passes import Tower
from clipguard.lab.comparators.repairs._role import patient_of
from clipguard.lab.evaluate import evaluate_classes
from clipguard.lab.zoo.manifest import Entry, read_truth
from clipguard.model.roles import ClipModel
from clipguard.policy.judge import load_policy
from clipguard.purify.repair import suspected, tuned
from clipguard.record import AuditRecord, DetectorRecord
from clipguard.text_safety import safe_text

MESSAGE = 400


@dataclass(frozen=True, kw_only=True)
class Job:
    """One victim and the methods that have no cell for it yet.

    Attributes:
        task: what is run.
        zoo: folder of the zoo.
        out: output folder.
        entry: the victim, built.
        twin: its clean twin, built; only where something is purified.
        truth: what `truth_digest` said of the victim; only where something is purified.
        prints: methods to run, each with the fingerprint that its cell gets. It was taken before
            the first job ran, so data that changes meanwhile makes no cell look newer than it is.
    """

    task: Task
    zoo: Path
    out: Path
    entry: Entry
    twin: Entry | None
    truth: str | None
    prints: Mapping[str, str]

    @property
    def model(self) -> Path:
        """The victim's checkpoint."""
        return self.zoo / self.entry.path / "model.pt"


def run_job(job: Job) -> None:
    """Make the cells of one victim, each written as soon as it is done.

    Raises:
        UsageError: a cell cannot be written.
    """
    cells = _detected(job) if job.task.kind == "detect" else _purified(job)
    for cell in cells:
        write_cell(job.out, job.entry, cell)


def _detected(job: Job) -> Iterator[Cell]:
    for method in job.prints:
        yield _detect(job, method)


def _detect(job: Job, method: str) -> DetectCell:
    """Load, probe, search and decide; whatever breaks is the cell's result."""
    options, watch, tower = _options(job), Watch(None, _silent), Tower()
    record, error = begun_record(job.model, options, watch.created), None
    try:
        record = _searched(job, method, record, watch, tower)[0]
    except Exception as raised:  # noqa: BLE001 - a victim that breaks a method counts against it
        error = _told(raised)
    record = judged(record, options, watch, complete=error is None)
    found = next((one for one in record.detectors if one.name == method), None)
    base = _base(job, method, watch, tower, found, error)
    why = error or (record.errors[-1].message if record.errors else "")
    if found is None or record.gate is None:
        return DetectCell(**base, reason=why)
    concluded = {one.detector: one for one in record.gate.conclusions}[method]
    return DetectCell(
        **base,
        decision=record.gate.decision,
        outcome=concluded.outcome,
        score=found.score,
        excess=found.excess,
        p_value=found.p_value,
        statistic=found.statistic,
        reason=concluded.reason,
    )


def _purified(job: Job) -> Iterator[Cell]:
    """One search for all purifiers, as a scan makes it, then each purifier on its findings."""
    options, watch, tower = _options(job), Watch(None, _silent), Tower()
    found = None
    try:
        record = begun_record(job.model, options, watch.created)
        record, suspect, finding = _searched(job, MAIN, record, watch, tower)
        if finding is None:
            raise RuntimeError(record.errors[-1].message)
        found = finding.record
    except Exception as raised:  # noqa: BLE001 - a victim that cannot be searched is a result
        for method in job.prints:
            yield _repaired(job, _base(job, method, watch, tower, found, _told(raised)))
        return
    for method in job.prints:
        yield _repair(job, method, suspect, finding, watch, replace(tower))


def _repair(
    job: Job, method: str, suspect: Suspect, finding: Finding, watch: Watch, tower: Tower
) -> PurifyCell:
    """Repair towards what the search found, and hold the result against the true trigger."""
    probe, found, told = suspect.subject.probe, finding.record, dict[str, Any]()
    try:
        forgot = forget_peak()
        with tower.watching(suspect.subject.model):
            model, classes = _made(job, method, suspect, finding, watch)
        told["memory"] = peak_memory() if forgot else None
        _require_unchanged(job)
        victim, twin = (job.zoo / entry.path for entry in (job.entry, _twin(job)))
        parts = [probe.optimise, probe.select, *([probe.unlabelled()] if probe.unlabelled else [])]
        told["images"] = sum(map(len, parts))
        told["labels"] = sum(int((part.labels >= 0).sum()) for part in parts[:2])
        given = torch.cat([part.drawings for part in parts])
        told["rates"] = evaluate_classes(
            victim, twin, classes, repaired=model, seed=job.task.seed, tuned=given
        )
    except InconclusiveError as raised:
        told = {"inapplicable": _told(raised)}
    except Exception as raised:  # noqa: BLE001 - a repair that breaks on a victim is a result
        return _repaired(job, _base(job, method, watch, tower, found, _told(raised)))
    return _repaired(job, _base(job, method, watch, tower, found, None)).model_copy(update=told)


def _made(
    job: Job, method: str, suspect: Suspect, finding: Finding, watch: Watch
) -> tuple[ClipModel, Tensor]:
    """What `method` makes of the suspect, and the class embeddings to read its images with.

    Raises:
        InconclusiveError: it cannot repair a model of this kind, or nothing towards this target.
    """
    subject, settings = suspect.subject, repair_settings(method)
    draws = torch.Generator().manual_seed(suspect.seed)
    with watch.stage("triggers"):
        backdoor = suspected(subject, finding, settings, generator=draws, progress=watch.progress)
    with watch.stage("repair"):
        repair = literature(method)
        if repair is None:
            ours = tuned(subject, backdoor, settings, generator=draws, progress=watch.progress)
            return ours.model, ours.classes
        patient = patient_of(subject, backdoor, job.entry.base)
        classes = repair.repair(patient, generator=draws, progress=watch.progress)
        return patient.subject.model, patient.classes() if classes is None else classes


def _require_unchanged(job: Job) -> None:
    """The evaluation reads a twin and a truth: those that the cell names, or none.

    Raises:
        RefusedError: they are others by now.
    """
    twin = _twin(job)
    if sha256_of(job.zoo / twin.path / "model.pt") != twin.sha256:
        raise RefusedError("the twin's model.pt is not the file that the manifest describes")
    known = job.entry.truth_sha256
    other = known is not None and read_truth(job.zoo, job.entry.path)[1] != known
    if other or truth_digest(job.zoo, job.entry) != job.truth:
        raise RefusedError("victim.json or its trigger is not what the zoo's manifest describes")


def _repaired(job: Job, base: dict[str, Any]) -> PurifyCell:
    return PurifyCell(**base, twin_sha256=_twin(job).sha256, truth_sha256=job.truth)


def _twin(job: Job) -> Entry:
    if job.twin is None:
        raise ValueError("only a victim with a clean twin can be evaluated")
    return job.twin


def _base(
    job: Job,
    method: str,
    watch: Watch,
    tower: Tower,
    found: DetectorRecord | None,
    error: str | None,
) -> dict[str, Any]:
    """What a cell of either kind says."""
    return {
        "method": method,
        "id": job.entry.id,
        "sha256": job.entry.sha256,
        "fingerprint": job.prints[method],
        "made_with": {"clipguard": __version__, **environment()},
        "seconds": dict(watch.seconds),
        "passes": tower.record(),
        "target": found.target if found else None,
        "error": error,
    }


def _options(job: Job) -> Options:
    return Options(
        policy=load_policy(POLICY),
        profile=PROFILE,
        seed=job.task.seed,
        purify="always" if job.task.kind == "purify" else "never",
        export="none",
        device=str(job.task.device),
        sandbox=job.task.sandbox,
    )


def _searched(
    job: Job, method: str, record: AuditRecord, watch: Watch, tower: Tower
) -> tuple[AuditRecord, Suspect, Finding | None]:
    """The stages of a scan up to its finding, with the tower counted."""
    options = _options(job)
    settings = replace(profile(PROFILE), detector=detector_of(job.task, method))
    suspect = load(job.model, options, settings, watch)
    if suspect.record.sha256 != job.entry.sha256:
        raise RefusedError("model.pt is not the file that the zoo's manifest describes")
    record = loaded(record, suspect, describe(suspect.subject, watch))
    with tower.watching(suspect.subject.model):
        *_, (record, finding) = measure(record, suspect, options, settings, watch)
        if job.task.words(method):
            record = measure_words(record, suspect, options, settings, watch)
    return record, suspect, finding


def _told(error: Exception) -> str:
    message = str(error).partition("\n")[0]
    name = type(error).__name__
    return safe_text(f"{name}: {message}" if message else name, MESSAGE)


def _silent(stage: str, done: int, total: int) -> None:
    """Progress is told by the cell, not by its steps."""
