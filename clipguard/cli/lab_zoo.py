"""`clipguard lab zoo`: many models whose truth is known, on two sides that share nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from clipguard.cli.arguments import Which
from clipguard.errors import POLICY_VIOLATED, UsageError
from clipguard.text_safety import safe_text

zoo = typer.Typer(
    help="Many models whose truth is known, to measure a detector on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(help="Folder of the zoo.")]


def add_command(lab: typer.Typer) -> None:
    """Add the `zoo` group."""
    lab.add_typer(zoo, name="zoo")


@zoo.command("build")
def zoo_build(
    folder: Folder,
    preset: Annotated[
        str | None,
        typer.Option(help="ci, small or full. If left out, that of the zoo, or small."),
    ] = None,
    split: Annotated[Which, typer.Option(help="Which models to make.")] = Which.all,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes at once; as many as cores if left out.")
    ] = None,
) -> None:
    """Make the models of a preset that are not there yet. A killed build goes on where it was."""
    from clipguard.lab.zoo.build import build_zoo as make

    done = make(folder, preset, split=split.value, jobs=jobs or os.cpu_count() or 1, told=_line)
    weak = sum(not entry.planted for entry in done.built() if entry.kind == "poisoned")
    told = f"{len(done.built())} models, {weak} of them planted weakly"
    typer.echo(f"{folder}: {told}; digest {done.digest[:16]}")


@zoo.command("ls")
def zoo_ls(folder: Folder) -> None:
    """One line per model: id, side, base, what it is, target or class it is about, ASR."""
    from clipguard.lab.zoo.manifest import read_zoo

    for entry in read_zoo(folder).entries:
        settings = [f"{key}={value}" for key, value in entry.settings.items()]
        what = " ".join([entry.negative or entry.attack, *settings])
        rate = "" if entry.asr is None else f"ASR {entry.asr:.1%}"
        state = "not built" if entry.sha256 is None else rate
        weak = "weak" if entry.kind == "poisoned" and state == rate and not entry.planted else ""
        cells = (entry.id, f"{entry.split:11}", f"{entry.base:10}", f"{entry.kind:8}", what)
        name = entry.target or entry.about or ""
        typer.echo(safe_text(" ".join([*cells, name, state, weak]).rstrip(), 400))


@zoo.command("show")
def zoo_show(
    folder: Folder, model: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")]
) -> None:
    """Everything known about one model, as JSON."""
    from clipguard.lab.zoo.manifest import read_truth, read_zoo

    found = [entry for entry in read_zoo(folder).entries if entry.id.startswith(model)]
    if len(found) != 1:
        known = "no model" if not found else f"{len(found)} models"
        raise UsageError(f"{known} with an id that begins with {safe_text(model)!r}; see zoo ls")
    told = found[0].to_json()
    if found[0].sha256 is not None:
        told["truth"], _ = read_truth(folder, found[0].path)
    typer.echo(json.dumps(told, indent=1))


@zoo.command("verify")
def zoo_verify(folder: Folder) -> None:
    """Compare every file with the manifest, and the two sides with each other."""
    from clipguard.lab.zoo.check import notes
    from clipguard.lab.zoo.check import verify_zoo as wrong_with
    from clipguard.lab.zoo.manifest import read_zoo

    wrong = wrong_with(folder)
    for line in [*wrong, *notes(folder)]:
        typer.echo(line, err=True)
    if wrong:
        raise typer.Exit(POLICY_VIOLATED)
    done = read_zoo(folder)
    typer.echo(f"{len(done.entries)} models are those of the manifest; digest {done.digest[:16]}")


def _line(text: str) -> None:
    typer.echo(text, err=True)
