"""One audit, stage by stage: load, probe, invert, judge, purify, export, keep."""

from __future__ import annotations

from pathlib import Path

import torch

from clipguard.artefacts import Gallery, save_trigger
from clipguard.calibration import Band, calibration_key, choose_band, family_of
from clipguard.checkpoint import load_checkpoint
from clipguard.describe import begun, coverage, describe, untested, with_text
from clipguard.errors import ENVIRONMENT, ClipguardError, ExportError, InconclusiveError
from clipguard.gate_release import missed_limits
from clipguard.heads import save_head
from clipguard.methods import DETECTORS, EXPORTERS
from clipguard.model import OpenClipModel, build_model
from clipguard.options import Options
from clipguard.policy import judge
from clipguard.power import power_of
from clipguard.probe import class_list_digest, load_probe
from clipguard.profiles import Profile, profile
from clipguard.prompts import class_embeddings
from clipguard.record import (
    AuditRecord,
    Decision,
    ErrorRecord,
    GateRecord,
    TimesRecord,
)
from clipguard.reference import compare
from clipguard.repair import repair
from clipguard.types import Detector, ExportJob, Finding, ProbeSet, PurifiedHead, Trigger
from clipguard.watch import Watch

MAIN, TEXT = "inversion", "text_tokens"
KNOWN = (InconclusiveError, ExportError)
MIN_MEASURE = 20


class Run:
    """One audit in progress: the record grows stage by stage."""

    def __init__(self, options: Options, watch: Watch, detector: str = MAIN) -> None:
        """Start with an empty record.

        Args:
            options: what to do.
            watch: time and budget.
            detector: registered name; all but the main one run with their own defaults.
        """
        self.options, self.watch, self.main = options, watch, detector == MAIN
        self.settings: Profile = profile(options.profile)
        chosen = self.settings.detector if self.main else None
        self.detector = DETECTORS.build(detector, chosen)
        self.record = begun(options, watch.created)

    def update(self, **parts: object) -> None:
        """Put `parts` into the record."""
        self.record = self.record.model_copy(update=parts)

    def finished(self, *, complete: bool) -> AuditRecord:
        """The record as it stands, with times and the policy's decision."""
        times = TimesRecord(created=self.watch.created, seconds=dict(self.watch.seconds))
        record = self.record.model_copy(update={"complete": complete, "times": times})
        return record.model_copy(update={"gate": judge(self.options.policy, record)})

    def all(self, path: Path, work: Path) -> AuditRecord:
        """Every stage in order; files go to `work`."""
        model = self.load(path)
        probe = self.gather(model)
        band, told = choose_band(self.key(probe), self.options.calibration)
        self.update(calibration=told)
        finding = self.detect(model, probe, band)
        if finding is not None:
            head = self.purify(model, probe, finding)
            self.export(model, probe, finding, head, work)
            self.keep(model, probe, finding, head, work)
        return self.finished(complete=True)

    def look(self, path: Path) -> tuple[OpenClipModel, ProbeSet]:
        """Load the checkpoint and the probe set."""
        model = self.load(path)
        return model, self.gather(model)

    def load(self, path: Path) -> OpenClipModel:
        """Load the checkpoint, and hold it against the reference where there is one."""
        with self.watch.stage("load"):
            checkpoint = load_checkpoint(path, arch=self.options.arch)
            self.update(checkpoint=checkpoint.record)
            self.family = family_of(checkpoint.architecture)
            model = build_model(checkpoint, self.options.device)
        if self.options.reference is not None:
            with self.watch.stage("reference"):
                known = compare(checkpoint, self.options.reference, self.options.arch)
                self.update(reference=known)
        return model

    def gather(self, model: OpenClipModel) -> ProbeSet:
        """Load the probe set."""
        with self.watch.stage("probe"):
            probe = load_probe(
                model, self.options.probe, self.settings.scenes, seed=self.options.seed
            )
            self.update(probe=describe(probe))
        return probe

    def key(self, probe: ProbeSet) -> str:
        """Which null band this scan may be compared with."""
        if self.record.checkpoint is None:
            raise ValueError("the checkpoint must be loaded first")
        return calibration_key(
            self.family,
            self.options.profile,
            f"{self.detector.fingerprint()} {self.settings.scenes}",
            f"{probe.source} {class_list_digest(probe.class_names)} {probe.templates}",
        )

    def detect(self, model: OpenClipModel, probe: ProbeSet, null: Band | None) -> Finding | None:
        """Run the detector, and after the main one that of the text; None as for `search`."""
        finding = self.search(model, probe, null)
        if self.main:
            self.read(model, probe)
        return finding

    def search(self, model: OpenClipModel, probe: ProbeSet, null: Band | None) -> Finding | None:
        """Run the detector; None when there was too little to conclude from."""
        with self.watch.stage("detect"):
            try:
                if len(probe.measure) < MIN_MEASURE:
                    have = f"{len(probe.measure)} probe images to measure on"
                    raise InconclusiveError(f"{have}, at least {MIN_MEASURE} are needed")
                finding = self._found(self.detector, model, probe, null)
            except InconclusiveError as error:
                self.fail("detect", error)
                self.update(coverage=untested(str(error)))
                return None
            told = coverage(finding.record, probe, power_of(self.key(probe)))
            self.update(detectors=(finding.record,), coverage=told)
            return finding

    def read(self, model: OpenClipModel, probe: ProbeSet) -> None:
        """Look for token triggers in the text tower; one that cannot be read is not tested."""
        with self.watch.stage("text"):
            found, why = self.record.detectors, ""
            try:
                words = DETECTORS.build(TEXT, self.settings.text)
                found += (self._found(words, model, probe, None).record,)
            except InconclusiveError as error:
                why = str(error)
        self.update(detectors=found, coverage=with_text(self.record.coverage, why))

    def _found(
        self, detector: Detector, model: OpenClipModel, probe: ProbeSet, null: Band | None
    ) -> Finding:
        generator = torch.Generator().manual_seed(self.options.seed)
        progress = self.watch.progress
        return detector.detect(model, probe, null, generator=generator, progress=progress)

    def purify(
        self, model: OpenClipModel, probe: ProbeSet, finding: Finding
    ) -> PurifiedHead | None:
        """Purify when the policy or the command asks for it."""
        when = self.options.purify or self.options.policy.purification.run
        fails = self.finished(complete=True).gate
        if when == "never" or (when == "on-fail" and not _is(fails, Decision.FAIL)):
            return None
        with self.watch.stage("purify"):
            try:
                record, head = repair(
                    model,
                    probe,
                    finding,
                    self.settings.repair,
                    seed=self.options.seed,
                    progress=self.watch.progress,
                )
            except (ClipguardError, RuntimeError, ValueError) as error:
                self.fail("purify", error)  # what was found must survive a repair that broke
                return None
        self.update(purification=record.model_copy(update={"head": "head.safetensors"}))
        return head

    def export(
        self,
        model: OpenClipModel,
        probe: ProbeSet,
        finding: Finding,
        head: PurifiedHead | None,
        work: Path,
    ) -> None:
        """Export the model as it is on a pass, else the purified head if there is one."""
        # A head must not excuse the model here: what passes by its own merit is exported as it is.
        bare = judge(self.options.policy, self.finished(complete=True), excuse=False)
        passes = bare.decision is Decision.PASS and self.options.release == "decision"
        if self.options.export == "none" or self.record.checkpoint is None:
            return
        if passes:
            classes = class_embeddings(model, probe.class_names, probe.templates)
            kind, name = "zero-shot", "model.onnx"
        elif head is not None:
            classes, kind, name = head.classes, "purified", "purified.onnx"
        else:
            return
        job = ExportJob(
            model=model,
            classes=classes,
            class_names=probe.class_names,
            head=kind,
            checkpoint_sha256=self.record.checkpoint.sha256,
            probe=probe,
            trigger=_worst(finding, probe),
            provider=self.options.provider,
            caveat="" if passes else missed_limits(bare),
        )
        with self.watch.stage("export"):
            generator = torch.Generator().manual_seed(self.options.seed)
            try:
                made = EXPORTERS.build("onnx").export(job, work / name, generator=generator)
            except (ClipguardError, RuntimeError, ValueError) as error:
                self.fail("export", error)
                return
        self.update(export=made)
        if passes and not _is(self.finished(complete=True).gate, Decision.PASS):
            (work / name).unlink()  # the policy asks for more than the exporter does

    def keep(
        self,
        model: OpenClipModel,
        probe: ProbeSet,
        finding: Finding,
        head: PurifiedHead | None,
        work: Path,
    ) -> None:
        """Write triggers, pictures and the head, and put their names into the record."""
        classes = class_embeddings(model, probe.class_names, probe.templates)
        gallery = Gallery(model, probe, classes, None if head is None else head.classes)
        with self.watch.stage("artefacts"):
            pairs = zip(finding.record.candidates, finding.triggers, strict=True)
            candidates = tuple(
                candidate.model_copy(
                    update={"trigger": save_trigger(i, candidate, trigger, work, gallery)}
                )
                for i, (candidate, trigger) in enumerate(pairs, start=1)
            )
            record = finding.record.model_copy(update={"candidates": candidates})
            self.update(detectors=(record, *self.record.detectors[1:]))
            if head is not None and self.record.checkpoint is not None:
                bare = judge(self.options.policy, self.finished(complete=True), excuse=False)
                path, caveat = work / "head.safetensors", missed_limits(bare)
                save_head(head, probe, self.record.checkpoint, path, caveat=caveat)

    def fail(self, stage: str, error: Exception) -> None:
        """Put the failure of one stage into the record; it cannot outrank what was found."""
        code = error.exit_code if isinstance(error, KNOWN) else ENVIRONMENT
        message = str(error).partition("\n")[0] or type(error).__name__
        told = (*self.record.errors, ErrorRecord(stage=stage, message=message, exit_code=code))
        self.update(errors=told)


def _is(gate: GateRecord | None, decision: Decision) -> bool:
    return gate is not None and gate.decision is decision


def _worst(finding: Finding, probe: ProbeSet) -> tuple[Trigger, int]:
    """The trigger of the candidate ranked first, and its class index."""
    first = finding.record.candidates[0]
    return finding.triggers[0], probe.class_names.index(first.target)
