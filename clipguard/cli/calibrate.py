"""`clipguard calibrate`: a null band from your own known-clean models."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clipguard.cli.scan import Profile


def register(app: typer.Typer) -> None:
    """Add `calibrate`."""
    app.command("calibrate")(calibrate)


def calibrate(
    models: Annotated[list[Path], typer.Argument(help="Known-clean checkpoints of one family.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Calibration file to write.")],
    profile: Annotated[
        Profile, typer.Option(help="Profile of the scans that the band is for.")
    ] = Profile.standard,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first model; +1 for each next.")
    ] = 0,
    probe_data: Annotated[Path | None, typer.Option(help="As for scan.")] = None,
    classnames: Annotated[Path | None, typer.Option(help="As for scan.")] = None,
    templates: Annotated[Path | None, typer.Option(help="As for scan.")] = None,
    arch: Annotated[str | None, typer.Option(help="As for scan.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Scan known-clean models with the pipeline of a profile and keep their statistics."""
    from clipguard.audit import Options
    from clipguard.calibrate import assemble, measure_clean
    from clipguard.calibration import dump_calibration
    from clipguard.cli.show import device_of, progress_bar
    from clipguard.outputs import write_atomic
    from clipguard.policy import load_policy
    from clipguard.probe import ProbeSource

    options = Options(
        policy=load_policy("default"),
        profile=profile.value,
        arch=arch,
        probe=ProbeSource(images=probe_data, class_names=classnames, templates=templates),
        device=device_of(device),
    )
    rows = []
    with progress_bar(quiet) as progress:
        for i, model in enumerate(models):
            # Another seed for each, so that the band also holds the luck of the search.
            one = replace(options, seed=seed + i)
            rows.append(measure_clean(model, one, progress=progress))
    band = assemble(rows, f"clipguard calibrate --profile {profile.value} --seed {seed}")
    write_atomic(output, dump_calibration(band))
    sys.stderr.write(f"{len(rows)} models, {band.key}\n")
