"""`clipguard export`: a checkpoint's zero-shot classifier as ONNX, proven equal to PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguard.cli.arguments import (
    Arch,
    Checkpoint,
    ClassNames,
    ProbeData,
    RequireEp,
    Seed,
    Templates,
)
from clipguard.errors import ExportError, UsageError
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.record import ExportRecord


def add_command(app: typer.Typer) -> None:
    """Add `export`."""
    app.command("export")(export)


def export(
    model: Checkpoint,
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file.")] = Path("model.onnx"),
    head: Annotated[
        Path | None,
        typer.Option(help="head.safetensors of a scan; default: the zero-shot classifier."),
    ] = None,
    require_ep: RequireEp = None,
    seed: Seed = 0,
    probe_data: ProbeData = None,
    classnames: ClassNames = None,
    templates: Templates = None,
    arch: Arch = None,
) -> None:
    """Export without a verdict. `scan` exports too, and only what its decision allows.

    A file that misses the export limits of the default policy is removed.
    """
    import torch

    from clipguard.checkpoint.load import load_checkpoint
    from clipguard.export.onnx import ExportJob, write_onnx
    from clipguard.model.open_clip import build_model
    from clipguard.model.prompts import class_embeddings
    from clipguard.probe.load import ProbeSource, Scenes, load_probe
    from clipguard.purify.head_file import LoadedHead, load_head

    if output.resolve() == model.resolve():
        raise UsageError("the ONNX file would replace the checkpoint; name another -o")
    checkpoint = load_checkpoint(model, arch=arch)
    network = build_model(checkpoint, torch.device("cpu"))
    source = ProbeSource(images=probe_data, class_names=classnames, templates=templates)
    probe = load_probe(network, source, Scenes(), seed=seed)
    if head is None:
        zero_shot = class_embeddings(network, probe.class_names, probe.templates)
        chosen = LoadedHead(zero_shot, probe.class_names, "")
    else:
        chosen = load_head(head, checkpoint.record.sha256)
    job = ExportJob(
        model=network,
        classes=chosen.classes,
        class_names=chosen.names,
        head="zero-shot" if head is None else "purified",
        checkpoint_sha256=checkpoint.record.sha256,
        probe=probe,
        provider=require_ep.value if require_ep else None,
        caveat=chosen.caveat,
    )
    generator = torch.Generator().manual_seed(seed)
    made = write_onnx(job, output, generator=generator)
    _require_equal(made, output)
    worst = max(row.relative_error for row in made.parity)
    typer.echo(f"{safe_text(output, 400)}: opset {made.opset}, {made.provider}")
    typer.echo(f"largest relative difference from PyTorch {worst:.1e}, within the default policy")
    sys.stderr.write("not a verdict: run `clipguard scan` before you release it\n")


def _require_equal(made: ExportRecord, output: Path) -> None:
    """Remove a file that was not shown to equal PyTorch.

    Raises:
        ExportError: it misses a limit of the default policy.
    """
    from clipguard.policy.judge import load_policy
    from clipguard.policy.release import export_checks
    from clipguard.record.wording import missed_told

    limits = load_policy("default").export
    lines = export_checks(limits, made, triggered=False)
    if missed := missed_told(one.check for one in lines):
        output.unlink()
        raise ExportError(f"{safe_text(output, 400)} was not kept: {missed}")
