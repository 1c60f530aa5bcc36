"""An export without a verdict: load, probe, write, and hold the file against the policy."""

from __future__ import annotations

from pathlib import Path

import torch

from clipguard.audit.before import require_inputs
from clipguard.audit.options import Options
from clipguard.audit.pipeline import load
from clipguard.audit.profiles import profile
from clipguard.audit.watch import Watch
from clipguard.errors import ExportError
from clipguard.export.limits import require_own
from clipguard.export.onnx import ExportJob, write_onnx
from clipguard.policy.release import export_checks
from clipguard.purify.files import LoadedHead, load_head
from clipguard.record import ExportRecord
from clipguard.record.wording import missed_told
from clipguard.search.roles import Progress
from clipguard.text_safety import safe_text


def export_unjudged(
    path: Path, output: Path, options: Options, head: Path | None, *, progress: Progress
) -> ExportRecord:
    """Export the zero-shot classifier of a checkpoint, or a head that was made for it.

    Args:
        path: checkpoint file or folder.
        output: ONNX file to write.
        options: policy, probe set, seed and provider.
        head: `head.safetensors` of a scan, or None for the zero-shot classifier.
        progress: told about each stage.

    Raises:
        UsageError: no such file, wrong architecture or probe data, unwritable `output`.
        RefusedError: a file is not what it should be, or opening it could do harm.
        ExportError: the file misses a limit of the policy, and is removed.
    """
    require_inputs(path, options, output.parent)
    require_own(output)
    watch = Watch(options.budget_s, progress)
    suspect = load(path, options, profile(options.profile), watch)
    subject, digest = suspect.subject, suspect.record.sha256
    chosen = LoadedHead(subject.classes, subject.probe.class_names, "")
    if head is not None:
        chosen = load_head(head, digest)
    job = ExportJob(
        model=subject.model,
        classes=chosen.classes,
        class_names=chosen.names,
        head="zero-shot" if head is None else "purified",
        checkpoint_sha256=digest,
        repaired_from=chosen.repaired_from,
        probe=subject.probe,
        provider=options.provider,
        caveat=chosen.caveat,
    )
    generator = torch.Generator().manual_seed(suspect.seed)
    made = write_onnx(job, output, generator=generator)
    checks = export_checks(options.policy.export, made, triggered=False)
    if missed := missed_told(one.check for one in checks):
        output.unlink()
        raise ExportError(f"{safe_text(output, 400)} was not kept: {missed}")
    return made
