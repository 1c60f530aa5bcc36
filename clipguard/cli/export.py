"""`clipguard export`: a checkpoint's zero-shot classifier as ONNX, proven equal to PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipguard.cli.arguments import (
    Arch,
    Checkpoint,
    ClassNames,
    LoraBase,
    ProbeData,
    RequireEp,
    Sandbox,
    SandboxMode,
    ScanSeed,
    Templates,
    TextFrom,
)
from clipguard.errors import UsageError
from clipguard.text_safety import safe_text


def add_command(app: typer.Typer) -> None:
    """Add `export`."""
    app.command("export")(export_command)


def export_command(
    model: Checkpoint,
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file.")] = Path("model.onnx"),
    head: Annotated[
        Path | None,
        typer.Option(help="head.safetensors of a scan; default: the zero-shot classifier."),
    ] = None,
    require_ep: RequireEp = None,
    seed: ScanSeed = None,
    probe_data: ProbeData = None,
    classnames: ClassNames = None,
    templates: Templates = None,
    arch: Arch = None,
    text_from: TextFrom = None,
    lora_base: LoraBase = None,
    sandbox: Sandbox = SandboxMode.auto,
) -> None:
    """Export without a verdict. `scan` exports too, and only what its decision allows.

    A file that misses the export limits of the default policy is removed.
    """
    from clipguard.cli.show import progress_bar, require_given

    require_given([model], locals())
    from clipguard.audit.export import export_unjudged
    from clipguard.audit.options import Options
    from clipguard.policy.judge import load_policy
    from clipguard.probe.load import ProbeSource

    if output.resolve() == model.resolve():
        raise UsageError("the ONNX file would replace the checkpoint; name another -o")
    options = Options(
        policy=load_policy("default"),
        seed=seed,
        provider=require_ep.value if require_ep else None,
        arch=arch,
        text_from=text_from,
        lora_base=lora_base,
        probe=ProbeSource(images=probe_data, class_names=classnames, templates=templates),
        device="cpu",
        sandbox=sandbox.value,
    )
    with progress_bar(quiet=True) as progress:
        made = export_unjudged(model, output, options, head, progress=progress)
    worst = max(row.relative_error for row in made.parity)
    typer.echo(f"{safe_text(output, 400)}: opset {made.opset}, {made.provider}")
    typer.echo(f"largest relative difference from PyTorch {worst:.1e}, within the default policy")
    sys.stderr.write("not a verdict: run `clipguard scan` before you release it\n")
