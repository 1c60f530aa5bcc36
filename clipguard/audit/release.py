"""What follows a decision: a repair, an exported file, pictures of what was found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clipguard.audit.options import Options
from clipguard.audit.profiles import Profile
from clipguard.audit.watch import Watch
from clipguard.detect.roles import Finding
from clipguard.detect.score import curve_of, scored
from clipguard.errors import (
    ENVIRONMENT,
    BudgetSpentError,
    ExportError,
    InconclusiveError,
    RefusedError,
)
from clipguard.export.onnx import ExportJob, write_onnx
from clipguard.model.roles import ClipModel
from clipguard.policy.judge import judge
from clipguard.policy.release import export_checks, missed_limits, stands_alone
from clipguard.probe.sets import Subject
from clipguard.purify.files import HEAD_FILE, TOWER_FILE, Weights, save_head, save_tower
from clipguard.purify.repair import Repaired, RepairSettings, repair
from clipguard.record import AuditRecord, Decision, ErrorRecord, ExportRecord
from clipguard.report.pictures import Gallery, save_trigger

ANOTHER = 2_000_003
"""What the seed of the second scan lies above that of the first."""
KNOWN = (InconclusiveError, ExportError, RefusedError)


@dataclass(frozen=True, eq=False)
class Release:
    """A finding on its way to what may be released.

    Attributes:
        options: of the audit.
        subject: the model and its probe set.
        seed: of every draw.
        finding: measurements and triggers of the main detector.
        record: what is known so far; its gate decides about the model as it is.
        family: name of the model family.
        reference: the model that the suspect was held against, if one was.
        repaired: what a repair made, if there was one.
        digest: of the file with the repaired image tower, if there is one.
    """

    options: Options
    subject: Subject
    seed: int
    finding: Finding
    record: AuditRecord
    family: str = ""
    reference: ClipModel | None = None
    repaired: Repaired | None = None
    digest: str | None = None

    @property
    def caveat(self) -> str:
        """What a purified file must say against itself."""
        return missed_limits(self.options.policy, self.record)

    def with_record(self, **parts: object) -> Release:
        """The same with other parts of the record."""
        return replace(self, record=self.record.model_copy(update=parts))

    def failed(self, stage: str, error: Exception) -> Release:
        """The same with the failure of one stage in the record."""
        return self.with_record(errors=(*self.record.errors, failure(stage, error)))


def failure(stage: str, error: Exception) -> ErrorRecord:
    """What the record says of a stage that failed; it cannot outrank what was found."""
    code = error.exit_code if isinstance(error, KNOWN) else ENVIRONMENT
    message = str(error).partition("\n")[0] or type(error).__name__
    spent = isinstance(error, BudgetSpentError)
    return ErrorRecord(stage=stage, message=message, exit_code=code, out_of_time=spent)


def purify(
    state: Release, settings: RepairSettings, watch: Watch, work: Path | None = None
) -> Release:
    """Repair the model where the policy or the command asks for it.

    Args:
        state: with the decision about the model as it is.
        settings: how to repair it.
        watch: time and budget.
        work: folder that a repaired image tower is written to; None writes none.
    """
    options, gate = state.options, state.record.gate
    when = options.purify or options.policy.purification.run
    fails = gate is not None and gate.decision is Decision.FAIL
    if when == "never" or (when == "on-fail" and not fails):
        return state
    with watch.stage("purify"):
        try:
            record, made = repair(
                state.subject,
                state.finding,
                settings,
                reference=state.reference,
                seed=state.seed,
                progress=watch.progress,
            )
            digest, audited = None, state.record.checkpoint
            if work is not None and made.tower is not None and audited is not None:
                digest = save_tower(
                    made.tower.model,
                    work / TOWER_FILE,
                    architecture=audited.architecture,
                    audited=audited.sha256,
                )
        except Exception as error:  # noqa: BLE001 - what was found must survive a repair that broke
            return state.failed("purify", error)
    files = {
        "head": HEAD_FILE if made.head else None,
        "repaired": TOWER_FILE if digest else None,
        "repaired_sha256": digest,
    }
    state = replace(state, repaired=made, digest=digest)
    return state.with_record(purification=record.model_copy(update=files))


def rescan(state: Release, settings: Profile, watch: Watch) -> Release:
    """Hold the repaired tower against the reference, as the model was, with other draws.

    It is as long as the first search, so it is made only where the policy lets a repair pass.
    """
    made, record, reference = state.repaired, state.record.purification, state.reference
    allowed = state.options.policy.purification.repaired_may_pass
    if not allowed or made is None or made.tower is None or record is None or reference is None:
        return state
    detector, known = settings.differential, state.record.reference
    with watch.stage("second scan"):
        try:
            pair = detector.pair(Subject(made.model, state.subject.probe), reference)
            seed = (state.seed + ANOTHER) % 2**31
            *_, found = detector.compare(pair, seed=seed, progress=watch.progress)
        except Exception as error:  # noqa: BLE001 - what was repaired stays repaired
            return state.failed("second scan", error)
    found = scored(found, curve_of(detector, known.role if known else None), state.family)
    record = record.model_copy(update={"rescan": found.record})
    return state.with_record(purification=record)


def export(state: Release, work: Path, watch: Watch) -> Release:
    """Export the model as it is on a pass, else what was repaired, if anything was.

    A file that misses the policy's limits for exports is not kept.
    """
    options, made = state.options, state.repaired
    gate = judge(options.policy, state.record, options.waivers)  # a repair that failed counts, too
    alone = options.release == "decision" and stands_alone(gate)
    if options.export == "none" or not (alone or made):
        return state
    with watch.stage("export"):
        try:
            file = _write(state, None if alone else made, work)
        except Exception as error:  # noqa: BLE001 - or an export
            return state.failed("export", error)
    lines = export_checks(options.policy.export, file, triggered=True)
    refused = {Decision.FAIL, Decision.INCONCLUSIVE} if alone else {Decision.FAIL}
    if any(line.check.result in refused for line in lines):
        (work / file.file).unlink()
        file = file.model_copy(update={"kept": False})
    return state.with_record(export=file)


def _write(state: Release, made: Repaired | None, work: Path) -> ExportRecord:
    """The file with what was repaired, or with the zero-shot classifier of the model as it is."""
    subject, checkpoint = state.subject, state.record.checkpoint
    digest, tower = checkpoint.sha256 if checkpoint else "", made is not None and made.tower
    names = subject.probe.class_names
    pairs = zip(state.finding.record.candidates, state.finding.triggers, strict=True)
    # A further target is no class of the file, so no ASR towards it can be measured on it.
    known = ((trigger, names.index(row.target)) for row, trigger in pairs if row.target in names)
    job = ExportJob(
        model=subject.model if made is None else made.model,
        classes=subject.classes if made is None else made.classes,
        class_names=names,
        head="purified" if made and made.head else "zero-shot",
        checkpoint_sha256=state.digest or digest if tower else digest,
        repaired_from=digest if tower else "",
        probe=subject.probe,
        trigger=next(known, None),
        provider=state.options.provider,
        caveat="" if made is None else state.caveat,
    )
    path = work / ("model.onnx" if made is None else "purified.onnx")
    return write_onnx(job, path, generator=torch.Generator().manual_seed(state.seed))


def keep(state: Release, work: Path, watch: Watch) -> AuditRecord:
    """Write triggers, pictures and the head, and put their names into the record."""
    made, found, checkpoint = state.repaired, state.finding, state.record.checkpoint
    gallery = Gallery(state.subject, (made.model, made.classes) if made else None)
    with watch.stage("artefacts"):
        pairs = zip(found.record.candidates, found.triggers, strict=True)
        candidates = tuple(
            candidate.model_copy(
                update={"trigger": save_trigger(i, candidate, trigger, work, gallery)}
            )
            for i, (candidate, trigger) in enumerate(pairs, start=1)
        )
        if made and made.head and checkpoint is not None:
            weights = Weights(checkpoint.sha256, state.digest)
            path, probe = work / HEAD_FILE, state.subject.probe
            save_head(made.head, probe, weights, path, caveat=state.caveat)
    main, *others = state.record.detectors
    shown = main.model_copy(update={"candidates": candidates})
    return state.record.model_copy(update={"detectors": (shown, *others)})
