"""`clipguard demo`: plant a backdoor here and now, and watch the real scan find it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguard.cli.arguments import Quiet, Seed
from clipguard.errors import ENVIRONMENT, PASS
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.audit.options import Options
    from clipguard.record import AuditRecord
    from clipguard.search.roles import Progress


def add_command(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command("demo")(demo)


def demo(
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for models and reports.")
    ] = Path("demo-out"),
    attack: Annotated[
        str, typer.Option(help="What to plant, for example badnets or blended.")
    ] = "badnets",
    target: Annotated[str, typer.Option(help="Target class.")] = "banana",
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Plant a backdoor into the bundled nano CLIP, then hold it and its clean twin against it.

    Exits 0 when the poisoned model failed and the twin passed.
    """
    from clipguard.audit.options import Options
    from clipguard.cli.show import progress_bar
    from clipguard.lab.order import Order, plant_command
    from clipguard.lab.plant import plant
    from clipguard.lab.recipes import SHOWN
    from clipguard.lab.victim_folder import write_base, write_victim
    from clipguard.policy.judge import load_policy

    poisoned, clean = output_dir / "poisoned", output_dir / "clean-twin"
    base = output_dir / "base.safetensors"
    with progress_bar(quiet) as progress:
        order = Order(attack=attack, target=target, seed=seed, recipe=SHOWN)
        victim, twin = plant(order, progress=progress)
        command = plant_command(order)
        truth = write_victim(victim, poisoned, command=command)
        write_victim(twin, clean, command=command)
        write_base(order.base, base)
    if not truth["planted"]:
        sys.stderr.write("the backdoor did not take (ASR under 90 %); try another --seed\n")
    options = Options(policy=load_policy("default"), reference=base)
    found = []
    for name, folder in (("poisoned", poisoned), ("clean twin", clean)):
        if not quiet:
            sys.stderr.write(f"scan of the {name}\n")
        with progress_bar(quiet) as progress:
            record = _scan(folder, options, progress)
        found.append(record)
        typer.echo(_line(name, record))
        if folder == poisoned and record.purification and record.purification.head:
            typer.echo(_planted(poisoned, clean, record.purification.head))
        typer.echo(f"           {safe_text(folder / 'report' / 'report.html', 400)}")
    right = [record.gate.decision.value if record.gate else "" for record in found]
    expected = right == ["fail", "pass"]
    if not expected:
        sys.stderr.write("expected the poisoned model to fail and its clean twin to pass\n")
    raise typer.Exit(PASS if expected else ENVIRONMENT)


def _scan(folder: Path, options: Options, progress: Progress) -> AuditRecord:
    from clipguard.audit.scan import audit
    from clipguard.files import write_atomic
    from clipguard.report.formats import RENDERERS

    out = folder / "report"
    record = audit(folder / "model.pt", options, out, progress=progress)
    write_atomic(out / "report.html", RENDERERS.build("html").render(record, out))
    return record


def _line(name: str, record: AuditRecord) -> str:
    """One line: decision, target, and what purification did."""
    decision = record.gate.decision.value.upper() if record.gate else "?"
    text = f"{name:10} {decision}"
    if record.detectors and decision != "PASS":
        found = record.detectors[0]
        text += f"  target {found.target!r}"
        text += "" if found.score is None else f", score {found.score:.3f}"
        text += f"\n           {found.evidence}"
    if record.purification:
        before, after = record.purification.before.asr, record.purification.after.asr
        text += f"\n           purified: ASR {before.value:.1%} -> {after.value:.1%}"
    return text


def _planted(poisoned: Path, clean: Path, head: str) -> str:
    """What the repair does to the planted trigger, which no scan has seen."""
    from clipguard.lab.evaluate import evaluate_head

    rates = evaluate_head(poisoned, clean, poisoned / "report" / head)["seen"]
    return (
        f"           planted trigger: ASR {rates['asr_before']:.1%} -> {rates['asr']:.1%}, "
        f"{rates['pa']:.1%} of the images with it are read rightly"
    )
