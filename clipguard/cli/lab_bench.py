"""`clipguard lab bench`: every method on every victim of a zoo, as one table."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguard.cli.arguments import Device, Quiet, Sandbox, SandboxMode, Seed, Which
from clipguard.errors import ENVIRONMENT, PASS, UsageError
from clipguard.lab.comparators import DETECTORS
from clipguard.lab.comparators.repairs import REPAIRS
from clipguard.purify.methods import PURIFIERS
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.lab.bench.cells import Kind
    from clipguard.lab.bench.record import Bench

bench = typer.Typer(
    help="Run methods on every model of a zoo, and make one table of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


ZooFolder = Annotated[Path, typer.Option("--zoo", help="Folder with a zoo.json.")]
Out = Annotated[Path, typer.Option("--output-dir", "-o", help="Folder for cells and tables.")]
WhichSplit = Annotated[
    Which,
    typer.Option(
        "--split", help="Which models. A look at the test split is logged beside zoo.json."
    ),
]
Part = Annotated[
    str, typer.Option(metavar="I/N", help="Only every Nth victim, from the Ith; I starts at 0.")
]
Jobs = Annotated[int, typer.Option(min=1, max=256, help="Processes; set OMP_NUM_THREADS to match.")]


def add_command(lab: typer.Typer) -> None:
    """Add the `bench` group."""
    lab.add_typer(bench, name="bench")


@bench.command("detect")
def bench_detect(
    zoo: ZooFolder,
    output_dir: Out,
    methods: Annotated[
        str,
        typer.Option(
            help=f"Detectors, with commas between: {', '.join(DETECTORS.names())}. "
            "A scan runs inversion only; the others are there to compare it with."
        ),
    ] = "inversion",
    split: WhichSplit = Which.calibration,
    part: Part = "0/1",
    jobs: Jobs = 1,
    seed: Seed = 0,
    device: Device = "auto",
    sandbox: Sandbox = SandboxMode.auto,
    quiet: Quiet = False,
) -> None:
    """Scan every model and score the detectors. Run it again to go on where it stopped."""
    _bench(
        "detect", (zoo, output_dir), methods, (split, part, jobs), (seed, device, sandbox, quiet)
    )


@bench.command("purify")
def bench_purify(
    zoo: ZooFolder,
    output_dir: Out,
    methods: Annotated[
        str,
        typer.Option(
            help="Repairs, with commas between. Ours: realign, realign+cbpt, "
            f"{', '.join(PURIFIERS.names())}. Of the literature: {', '.join(REPAIRS.names())}."
        ),
    ] = "realign+cbpt",
    split: WhichSplit = Which.calibration,
    part: Part = "0/1",
    jobs: Jobs = 1,
    seed: Seed = 0,
    device: Device = "auto",
    sandbox: Sandbox = SandboxMode.auto,
    quiet: Quiet = False,
) -> None:
    """Repair towards what a scan finds, then measure under the true trigger."""
    _bench(
        "purify", (zoo, output_dir), methods, (split, part, jobs), (seed, device, sandbox, quiet)
    )


def _bench(
    kind: Kind,
    folders: tuple[Path, Path],
    methods: str,
    which: tuple[Which, str, int],
    how: tuple[int, str, SandboxMode, bool],
) -> None:
    from clipguard.cli.show import progress_bar
    from clipguard.lab.bench.cells import Task
    from clipguard.lab.bench.matrix import make_matrix, run
    from clipguard.model.open_clip import device_of

    (zoo, out), (split, part, jobs), (seed, device, sandbox, quiet) = folders, which, how
    names = tuple(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not names:
        raise UsageError("--methods names no method; give one, or several with commas between")
    chosen = _part(part)
    given = ["--zoo", zoo.name, "--methods", ",".join(names), "--split", split.value]
    given += ["--seed", str(seed), "--device", device, "-o", out.name or "bench"]
    given += [] if sandbox is SandboxMode.auto else ["--sandbox", sandbox.value]
    command = shlex.join(["clipguard", "lab", "bench", kind, *given])
    task = Task(
        kind=kind,
        methods=names,
        seed=seed,
        device=device_of(device),
        sandbox=sandbox.value,
    )
    matrix = make_matrix(task, zoo, out, split=split.value, command=command)
    with progress_bar(quiet) as progress:
        made = run(matrix, part=chosen, jobs=jobs, progress=progress)
    _show(made, out)
    raise typer.Exit(ENVIRONMENT if made.broken else PASS)


def _part(text: str) -> tuple[int, int]:
    """`I/N` as two numbers.

    Raises:
        UsageError: something else, or I not below N.
    """
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UsageError(f"expected --part I/N with I from 0 to N-1, got {safe_text(text)!r}")
    return int(match[1]), int(match[2])


def _show(made: Bench, out: Path) -> None:
    """The headline on stdout, gaps first; where the tables are on stderr."""
    from clipguard.lab.bench.cells import PurifyCell
    from clipguard.lab.bench.pages import gaps
    from clipguard.record.wording import interval

    for gap in gaps(made):
        typer.echo(gap)
    for method, score in made.scores.items():
        typer.echo(
            f"{method}: AUROC {interval(score.auroc)} over {score.models} models, "
            f"found at 0 false alarms {interval(score.no_false_alarm)}"
        )
    if not made.scores:
        cells = [row.cell for row in made.rows if isinstance(row.cell, PurifyCell)]
        done = sum(bool(cell.rates) for cell in cells)
        typer.echo(f"{done} of {made.cells} cells repaired and measured")
        if unfit := sum(cell.inapplicable is not None for cell in cells):
            typer.echo(f"{unfit} not repaired: the method is not for such a model")
    sys.stderr.write(f"table: {safe_text(out / 'bench.html', 400)}\n")
