"""`clipguard scan`: audit checkpoints and exit as a release gate."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import clipguard
from clipguard import ScanOptions
from clipguard.cli.arguments import (
    Arch,
    Calibration,
    Canary,
    Checkpoints,
    ClassNames,
    Device,
    HowHard,
    HowToRepair,
    LoraBase,
    OutputDir,
    PolicyName,
    ProbeData,
    Profile,
    Purifier,
    Quiet,
    Reference,
    RequireEp,
    Sandbox,
    SandboxMode,
    ScanSeed,
    Templates,
    TextFrom,
    Vocabulary,
)
from clipguard.cli.crash import crash_line
from clipguard.errors import ENVIRONMENT, INCONCLUSIVE, ClipguardError, UsageError, worst_exit_code
from clipguard.report.formats import RENDERERS
from clipguard.stopping import ends_soon
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.record import AuditRecord


class Purify(str, Enum):
    """When to purify."""

    never = "never"
    on_fail = "on-fail"
    always = "always"


class Export(str, Enum):
    """What to export."""

    none = "none"
    onnx = "onnx"


Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        metavar="FMT[=PATH]",
        help=f"Also write this rendering ({', '.join(RENDERERS.names())}); PATH - is standard "
        "output.",
    ),
]

WhenToPurify = Annotated[
    Purify | None, typer.Option(help="When to purify. As the policy says if left out.")
]
Budget = Annotated[
    float | None, typer.Option(min=1, help="Seconds per model. What is left then is not tested.")
]


def add_command(app: typer.Typer) -> None:
    """Add `scan`."""
    app.command("scan")(scan)


def scan(
    models: Checkpoints,
    output_dir: OutputDir = Path("clipguard-report"),
    policy: PolicyName = "default",
    profile: HowHard = Profile.standard,
    seed: ScanSeed = None,
    purify: WhenToPurify = None,
    purifier: HowToRepair = Purifier.both,
    export: Annotated[Export, typer.Option(help="What to export.")] = Export.onnx,
    require_ep: RequireEp = None,
    formats: Formats = None,
    probe_data: ProbeData = None,
    classnames: ClassNames = None,
    templates: Templates = None,
    vocabulary: Vocabulary = None,
    calibration: Calibration = None,
    reference: Reference = None,
    canary: Canary = False,
    arch: Arch = None,
    text_from: TextFrom = None,
    lora_base: LoraBase = None,
    budget: Budget = None,
    device: Device = "auto",
    sandbox: Sandbox = SandboxMode.auto,
    quiet: Quiet = False,
) -> None:
    """Search checkpoints for a backdoor, decide by a policy, purify, export and report.

    The exit code is the decision: 0 pass, 1 fail, 3 cannot tell; others are errors.
    """
    from clipguard.policy.judge import load_policy

    wanted = _renderings(formats or [], models)
    load_policy(policy)  # a typing error must not cost a scan
    options = ScanOptions(
        profile=profile.value,
        seed=seed,
        purify=purify.value if purify else None,
        purifier=purifier.value,
        export=export.value,
        provider=require_ep.value if require_ep else None,
        budget_s=budget,
        arch=arch,
        text_from=text_from,
        lora_base=lora_base,
        device=device,
        sandbox=sandbox.value,
        calibration=calibration,
        reference=reference,
        canary=canary,
        probe_data=probe_data,
        classnames=classnames,
        templates=templates,
        vocabulary=vocabulary,
    )
    pairs = zip(models, _folders(models, output_dir), strict=True)
    codes = [_one(model, folder, policy, options, wanted, quiet) for model, folder in pairs]
    raise typer.Exit(worst_exit_code(codes))


def _renderings(formats: list[str], models: list[Path]) -> list[tuple[str, Path | None]]:
    from clipguard.report.outputs import STDOUT, parse_format, require_distinct

    wanted = [parse_format(text) for text in formats]
    require_distinct(wanted)
    if len(models) > 1 and any(path not in (None, STDOUT) for _, path in wanted):
        raise UsageError(
            "-f FMT=PATH names one file, several models would overwrite it; leave out =PATH"
        )
    return wanted


def _folders(models: list[Path], output_dir: Path) -> list[Path]:
    from clipguard.cli.show import folder_name

    if len(models) == 1:
        return [output_dir]
    names = [folder_name(model) for model in models]
    if len(set(names)) < len(names):  # numbers, so that no report overwrites another
        names = [f"{i}-{name}" for i, name in enumerate(names, start=1)]
    return [output_dir / name for name in names]


def _one(
    model: Path,
    folder: Path,
    policy: str,
    options: ScanOptions,
    wanted: list[tuple[str, Path | None]],
    quiet: bool,
) -> int:
    """Audit one model and write its report; an explained failure becomes its exit code."""
    from clipguard.cli.show import progress_bar

    decided: list[int] = []
    try:
        with ends_soon(), progress_bar(quiet) as progress:
            record = clipguard.scan(model, folder, policy=policy, progress=progress, **options)
        decided.append(record.gate.exit_code if record.gate else INCONCLUSIVE)
        if record.refused is not None:
            sys.stderr.write(f"error: {safe_text(record.refused.says, 2000)}\n")
        _show(record, folder, wanted, quiet)
        _write(record, folder, wanted)
    except ClipguardError as error:
        told, name = safe_text(error, 2000), f"{safe_text(model.name)}: "
        sys.stderr.write(f"error: {name}{told.removeprefix(name)}\n")
        # After a verdict only the writing failed, which must not outrank a finding.
        decided.append(ENVIRONMENT if decided else error.exit_code)
    except Exception as error:  # noqa: BLE001 - one model's bug must not hide another's finding
        if not isinstance(error, BrokenPipeError):  # whoever reads the output has read enough
            sys.stderr.write(f"{crash_line(error, model.name)}\n")
        decided.append(ENVIRONMENT)
    return worst_exit_code(decided)


def _write(record: AuditRecord, folder: Path, wanted: list[tuple[str, Path | None]]) -> None:
    from clipguard.files import write_atomic
    from clipguard.report.outputs import STDOUT, default_file

    for name, path in [("html", None), *wanted]:
        if path != STDOUT:
            text = RENDERERS.build(name).render(record, folder)
            write_atomic(path or folder / default_file(name), text)


def _show(
    record: AuditRecord, folder: Path, wanted: list[tuple[str, Path | None]], quiet: bool
) -> None:
    """The verdict on stdout; renderings sent to `-` take its place."""
    from clipguard.report.outputs import STDOUT

    streamed = [name for name, path in wanted if path == STDOUT]
    for name in streamed or ["text"]:
        text = RENDERERS.build(name).render(record, folder)
        typer.echo(text.partition("\n")[0] if quiet and not streamed else text.rstrip("\n"))
    if not quiet:
        sys.stderr.write(f"report: {safe_text(folder / 'report.html', 400)}\n")
