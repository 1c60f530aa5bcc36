"""What follows a decision: a purified head, an exported file, pictures of what was found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clipguard.audit.options import Options
from clipguard.audit.watch import Watch
from clipguard.detect.roles import Finding
from clipguard.errors import ENVIRONMENT, ExportError, InconclusiveError, RefusedError
from clipguard.export.onnx import ExportJob, write_onnx
from clipguard.policy.judge import judge
from clipguard.policy.release import export_checks, missed_limits, stands_alone
from clipguard.probe.sets import Subject
from clipguard.purify.head_file import save_head
from clipguard.purify.repair import RepairSettings, repair
from clipguard.purify.roles import PurifiedHead
from clipguard.record import AuditRecord, Decision, ErrorRecord, ExportRecord
from clipguard.report.pictures import Gallery, save_trigger

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
        head: the purified head, if one was made.
    """

    options: Options
    subject: Subject
    seed: int
    finding: Finding
    record: AuditRecord
    head: PurifiedHead | None = None

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
    return ErrorRecord(stage=stage, message=message, exit_code=code)


def purify(state: Release, settings: RepairSettings, watch: Watch) -> Release:
    """Make a purified head where the policy or the command asks for one."""
    options, gate = state.options, state.record.gate
    when = options.purify or options.policy.purification.run
    fails = gate is not None and gate.decision is Decision.FAIL
    if when == "never" or (when == "on-fail" and not fails):
        return state
    with watch.stage("purify"):
        try:
            record, head = repair(
                state.subject, state.finding, settings, seed=state.seed, progress=watch.progress
            )
        except Exception as error:  # noqa: BLE001 - what was found must survive a repair that broke
            return state.failed("purify", error)
    record = record.model_copy(update={"head": "head.safetensors"})
    return replace(state, head=head).with_record(purification=record)


def export(state: Release, work: Path, watch: Watch) -> Release:
    """Export the model as it is on a pass, else the purified head if there is one.

    A file that misses the policy's limits for exports is not kept.
    """
    options, head = state.options, state.head
    gate = judge(options.policy, state.record)  # a repair that failed counts, too
    alone = options.release == "decision" and stands_alone(gate)
    if options.export == "none" or not (alone or head):
        return state
    with watch.stage("export"):
        try:
            made = _write(state, None if alone else head, work)
        except Exception as error:  # noqa: BLE001 - or an export
            return state.failed("export", error)
    lines = export_checks(options.policy.export, made, triggered=True)
    refused = {Decision.FAIL, Decision.INCONCLUSIVE} if alone else {Decision.FAIL}
    if any(line.check.result in refused for line in lines):
        (work / made.file).unlink()
        made = made.model_copy(update={"kept": False})
    return state.with_record(export=made)


def _write(state: Release, head: PurifiedHead | None, work: Path) -> ExportRecord:
    """The file with the purified head, or with the zero-shot classifier without one."""
    subject, checkpoint = state.subject, state.record.checkpoint
    names = subject.probe.class_names
    pairs = zip(state.finding.record.candidates, state.finding.triggers, strict=True)
    # A further target is no class of the file, so no ASR towards it can be measured on it.
    known = ((trigger, names.index(row.target)) for row, trigger in pairs if row.target in names)
    job = ExportJob(
        model=subject.model,
        classes=subject.classes if head is None else head.classes,
        class_names=names,
        head="zero-shot" if head is None else "purified",
        checkpoint_sha256=checkpoint.sha256 if checkpoint else "",
        probe=subject.probe,
        trigger=next(known, None),
        provider=state.options.provider,
        caveat="" if head is None else state.caveat,
    )
    path = work / ("model.onnx" if head is None else "purified.onnx")
    return write_onnx(job, path, generator=torch.Generator().manual_seed(state.seed))


def keep(state: Release, work: Path, watch: Watch) -> AuditRecord:
    """Write triggers, pictures and the head, and put their names into the record."""
    head, found, checkpoint = state.head, state.finding, state.record.checkpoint
    purified = None if head is None else head.classes
    gallery = Gallery(state.subject, purified)
    with watch.stage("artefacts"):
        pairs = zip(found.record.candidates, found.triggers, strict=True)
        candidates = tuple(
            candidate.model_copy(
                update={"trigger": save_trigger(i, candidate, trigger, work, gallery)}
            )
            for i, (candidate, trigger) in enumerate(pairs, start=1)
        )
        if head is not None and checkpoint is not None:
            path = work / "head.safetensors"
            save_head(head, state.subject.probe, checkpoint, path, caveat=state.caveat)
    main, *others = state.record.detectors
    shown = main.model_copy(update={"candidates": candidates})
    return state.record.model_copy(update={"detectors": (shown, *others)})
