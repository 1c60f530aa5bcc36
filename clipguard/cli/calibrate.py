"""`clipguard calibrate`: a null band from your own known-clean models."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clipguard.cli.arguments import (
    Arch,
    Checkpoints,
    ClassNames,
    Device,
    HowHard,
    LoraBase,
    ProbeData,
    Profile,
    Quiet,
    Sandbox,
    SandboxMode,
    Seed,
    Templates,
    TextFrom,
)
from clipguard.errors import UsageError
from clipguard.text_safety import safe_text


def add_command(app: typer.Typer) -> None:
    """Add `calibrate`."""
    app.command("calibrate")(calibrate)


def calibrate(
    models: Checkpoints,
    output: Annotated[Path, typer.Option("--output", "-o", help="Calibration file to write.")],
    profile: HowHard = Profile.standard,
    seed: Seed = 0,
    probe_data: ProbeData = None,
    classnames: ClassNames = None,
    templates: Templates = None,
    arch: Arch = None,
    text_from: TextFrom = None,
    lora_base: LoraBase = None,
    device: Device = "auto",
    sandbox: Sandbox = SandboxMode.auto,
    quiet: Quiet = False,
) -> None:
    """Make a null band: search known-clean models as a scan does, and keep what was found.

    Give 20 or more. Each model gets the next seed, so the band also covers the luck of the search.
    """
    from clipguard.cli.show import progress_bar, require_given

    require_given(models, locals())
    from clipguard.audit.calibrate import assemble, measure_clean, require_enough
    from clipguard.audit.command import command
    from clipguard.audit.options import Options
    from clipguard.detect.null_band import dump_null_band
    from clipguard.files import write_atomic
    from clipguard.policy.judge import load_policy
    from clipguard.probe.load import ProbeSource

    require_enough(len(models))
    _require_place(output)
    options = Options(
        policy=load_policy("default"),
        profile=profile.value,
        arch=arch,
        text_from=text_from,
        lora_base=lora_base,
        probe=ProbeSource(images=probe_data, class_names=classnames, templates=templates),
        device=device,
        sandbox=sandbox.value,
        seed=seed,
    )
    rows = []
    with progress_bar(quiet) as progress:
        for i, model in enumerate(models):
            one = replace(options, seed=seed + i)
            rows.append(measure_clean(model, one, progress=progress))
    band = assemble(rows, command("calibrate", models, options))
    write_atomic(output, dump_null_band(band))
    sys.stderr.write(f"{len(rows)} models, {safe_text(band.key, 400)}\n")


def _require_place(output: Path) -> None:
    """Refuse a place that cannot be written, or that holds another file: hours later is too late.

    Raises:
        UsageError: either of them.
    """
    from clipguard.detect.null_band import read_null_band
    from clipguard.report.folder import workspace

    if output.exists():
        try:
            read_null_band(output)
        except UsageError as error:
            raise UsageError(
                f"{safe_text(output, 400)} is there, and is no calibration file; move it, or "
                "choose another -o"
            ) from error
    with workspace(output.parent):
        pass
