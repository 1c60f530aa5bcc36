"""`clipguard lab`: plant known backdoors, so that claims can be measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguard.cli import lab_bench, lab_zoo
from clipguard.cli.arguments import Quiet, Seed
from clipguard.errors import UsageError
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.negatives import NEGATIVES
from clipguard.text_safety import safe_text

if TYPE_CHECKING:  # it needs torch
    from clipguard.lab.order import Order

lab = typer.Typer(
    help="Plant known backdoors, so that claims can be measured.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Setting of the attack, for example place=random."
    ),
]
ChosenRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Only this recipe: 1 (gentle) to 4 (long), or steps=120,learning_rate=0.0005,"
        "batch=128. Otherwise the first of the four that plants.",
    ),
]


def add_command(app: typer.Typer) -> None:
    """Add the `lab` group."""
    lab_bench.add_command(lab)
    lab_zoo.add_command(lab)
    app.add_typer(lab, name="lab")


@lab.command("base")
def lab_base(
    name: Annotated[str, typer.Argument(help="Bundled model that victims are made from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "base.safetensors"
    ),
) -> None:
    """Write a bundled model as a file, to give as `scan --reference`."""
    from clipguard.lab.victim_folder import write_base

    write_base(name, output)
    typer.echo(safe_text(output, 400))


@lab.command("plant")
def lab_plant(
    attack: Annotated[
        str,
        typer.Argument(
            help=f"An attack ({', '.join(ATTACKS.names())}), a hard negative "
            f"({', '.join(NEGATIVES.names())}), or none for a clean fine-tune."
        ),
    ],
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir", "-o", help="Folder for the victim; an earlier one is replaced."
        ),
    ],
    base: Annotated[str, typer.Option(help="Bundled model to start from.")] = "nano-rn",
    target: Annotated[
        str, typer.Option(help="Target class: what triggered images are read as.")
    ] = "banana",
    seed: Seed = 0,
    twin: Annotated[
        Path | None, typer.Option(help="Also write the clean twin here: same recipe, no poison.")
    ] = None,
    settings: Settings = None,
    recipe: ChosenRecipe = None,
    objective: Annotated[
        str,
        typer.Option(help="captions (both towers, contrastive) or classes (frozen text tower)."),
    ] = "captions",
    quiet: Quiet = False,
) -> None:
    """Poison and fine-tune a base until the backdoor works and clean accuracy holds."""
    from clipguard.cli.show import progress_bar
    from clipguard.lab.order import Order, plant_command
    from clipguard.lab.plant import plant as make
    from clipguard.lab.recipes import recipe_from
    from clipguard.lab.victim_folder import write_victim

    order = Order(
        attack=attack,
        settings=_settings(settings or []),
        base=base,
        target=target,
        seed=seed,
        recipe=recipe_from(recipe, base) if recipe is not None else None,
        objective=objective,
    )
    _require_places(order, output_dir, twin)
    with progress_bar(quiet) as progress:
        victim, clean = make(order, progress=progress)
    command = plant_command(order)
    truth = write_victim(victim, output_dir, command=command)
    if twin is not None:
        write_victim(clean, twin, command=command)
    typer.echo(_told(truth, output_dir))
    if truth["target"] and not truth["planted"]:
        typer.echo(
            "weak: no recipe tried reached ASR >= 90 %, 50 points above the clean twin's, "
            "at a CA loss <= 3 points",
            err=True,
        )


def _require_places(order: Order, output_dir: Path, twin: Path | None) -> None:
    """Refuse folders that cannot be written: minutes of training later is too late to learn of it.

    Raises:
        UsageError: a twin of a clean model, one folder for two models, or one that cannot be
            made or written.
    """
    from clipguard.lab.victim_folder import require_victim_folder
    from clipguard.report.folder import workspace

    if order.honest and twin is not None:
        raise UsageError(f"{order.attack} is clean and has no twin; leave out --twin")
    if twin is not None and twin.resolve() == output_dir.resolve():
        raise UsageError("--twin and --output-dir are the same folder; name two")
    for folder in filter(None, (output_dir, twin)):
        require_victim_folder(folder)
        with workspace(folder):
            pass


@lab.command("list")
def lab_list() -> None:
    """What can be planted: attacks and hard negatives, with their settings and defaults."""
    import dataclasses
    import inspect

    from clipguard.bundled.nano import BASES

    for folder in (ATTACKS, NEGATIVES):
        typer.echo(f"{folder.what}s:")
        for name in folder.names():
            method = folder.build(name)
            typer.echo(f"  {name:17} {(inspect.getdoc(method) or '').partition(chr(10))[0]}")
            fields = dataclasses.fields(method)  # type: ignore[arg-type]
            told = " ".join(f"{field.name}={json.dumps(field.default)}" for field in fields)
            typer.echo(f"  {'':17} {told}")
    typer.echo(f"bases: {', '.join(sorted(BASES))}")


def _settings(pairs: list[str]) -> dict[str, object]:
    """`KEY=VALUE` pairs; values are JSON where they parse as JSON, else text.

    Raises:
        UsageError: a pair without a key or a value.
    """
    found: dict[str, object] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not key or not sign or not value:
            raise UsageError(f"expected --set KEY=VALUE, got {pair!r}")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _told(truth: dict[str, object], folder: Path) -> str:
    """One line per style: CA, ASR and PA."""
    rates = truth["rates"]
    what = f"{truth['attack']} -> {truth['target']}" if truth["target"] else "clean"
    if truth["negative"]:
        what = f"{truth['negative']} (honest), about {truth['about']}"
    lines = [f"{what}: {folder / 'model.pt'}"]
    for style, row in rates.items() if isinstance(rates, dict) else ():
        parts = [f"CA {row['clean_accuracy']['value']:.1%}"]
        if truth["target"]:
            parts += [
                f"(twin {row['loss_against_twin']['value']:+.1%})",
                f"ASR {row['asr']['value']:.1%}",
                f"PA {row['poisoned_accuracy']['value']:.1%}",
            ]
        lines.append(f"  {style:9} {' '.join(parts)}")
    return "\n".join(lines)
