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
    SarifRoot,
    ScanSeed,
    Templates,
    TextFrom,
    Vocabulary,
    WaiverFile,
)
from clipguard.cli.crash import crash_line
from clipguard.cli.dry_run import foretold
from clipguard.errors import (
    ENVIRONMENT,
    INCONCLUSIVE,
    ClipguardError,
    worst_exit_code,
)
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

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Search nothing. Say what would be searched, what it takes, and what a pass lacks.",
    ),
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
    waivers: WaiverFile = None,
    sarif_root: SarifRoot = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Search checkpoints for a backdoor, decide by a policy, purify, export and report.

    The exit code is the decision: 0 pass, 1 fail, 3 cannot tell; others are errors.
    """
    wanted = _renderings(formats or [], models, policy, waivers)
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
        waivers=waivers,
    )
    places = _places(models, options, output_dir, sarif_root)
    if dry_run:
        raise typer.Exit(foretold(models, places, policy, options, quiet))
    raise typer.Exit(_all(models, places, policy, options, wanted, quiet))


def _all(
    models: list[Path],
    places: list[tuple[Path, str | None]],
    policy: str,
    options: ScanOptions,
    wanted: list[tuple[str, Path | None]],
    quiet: bool,
) -> int:
    """Audit every model, then write what is about all of them; the gravest exit code."""
    codes: list[int] = []
    found: list[tuple[AuditRecord, Path]] = []
    for model, (folder, location) in zip(models, places, strict=True):
        options["location"] = location
        code, record = _one(model, folder, policy, options, wanted, quiet)
        codes.append(code)
        found += [] if record is None else [(record, folder)]
    return worst_exit_code([*codes, *_together(found, wanted)])


def _places(
    models: list[Path], options: ScanOptions, output_dir: Path, root: Path | None
) -> list[tuple[Path, str | None]]:
    """The report folder of each model, and where the model lies in its repository.

    Raises:
        UsageError: a path that was given is not there.
    """
    from clipguard.cli.show import require_given
    from clipguard.report.outputs import location_in, repository_root

    require_given(models, options)
    start = root or repository_root(Path())
    folders = _folders(models, output_dir)
    return [(one, location_in(model, start)) for model, one in zip(models, folders, strict=True)]


def _renderings(
    formats: list[str], models: list[Path], policy: str, waivers: Path | None
) -> list[tuple[str, Path | None]]:
    """The formats that are asked for; a typing error in them or in a rule must not cost a scan."""
    from clipguard.policy.judge import load_policy, load_waivers
    from clipguard.report.outputs import parse_format, require_places

    wanted = [parse_format(text) for text in formats]
    require_places(wanted, len(models))
    load_policy(policy)
    if waivers is not None:
        load_waivers(waivers)
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
) -> tuple[int, AuditRecord | None]:
    """Audit one model and write its report; an explained failure becomes its exit code."""
    from clipguard.cli.show import named, progress_bar

    decided: list[int] = []
    record: AuditRecord | None = None
    try:
        with ends_soon(), progress_bar(quiet) as progress:
            record = clipguard.scan(model, folder, policy=policy, progress=progress, **options)
        decided.append(record.gate.exit_code if record.gate else INCONCLUSIVE)
        if record.refused is not None:
            sys.stderr.write(f"error: {safe_text(record.refused.says, 2000)}\n")
        _write(record, folder, wanted)
        _show(record, folder, wanted, quiet)
    except ClipguardError as error:
        sys.stderr.write(f"error: {named(model, error)}\n")
        # After a verdict only the writing failed, which must not outrank a finding.
        decided.append(ENVIRONMENT if decided else error.exit_code)
    except Exception as error:  # noqa: BLE001 - one model's bug must not hide another's finding
        sys.stderr.write(f"{crash_line(error, model.name)}\n")
        decided.append(ENVIRONMENT)
    return worst_exit_code(decided), record


def _write(record: AuditRecord, folder: Path, wanted: list[tuple[str, Path | None]]) -> None:
    """The formats that each model gets in its own folder."""
    from clipguard.report.outputs import default_file, write_rendering

    for name, path in [("html", None), *wanted]:
        if path is None:
            text = RENDERERS.build(name).render(record, folder)
            write_rendering(name, folder / default_file(name), text)


def _together(
    found: list[tuple[AuditRecord, Path]], wanted: list[tuple[str, Path | None]]
) -> list[int]:
    """The documents about all models; the exit code of one that cannot be written."""
    from clipguard.cli.show import out
    from clipguard.report.outputs import STDOUT, rendered, write_rendering

    codes = []
    for name, path in sorted(wanted, key=lambda pair: pair[1] == STDOUT) if found else ():
        try:
            if path == STDOUT:
                out(rendered(name, found).rstrip("\n"))
            elif path is not None:
                write_rendering(name, path, rendered(name, found))
        except ClipguardError as error:
            sys.stderr.write(f"error: {safe_text(error, 2000)}\n")
            codes.append(ENVIRONMENT)  # only the writing failed
    return codes


def _show(
    record: AuditRecord, folder: Path, wanted: list[tuple[str, Path | None]], quiet: bool
) -> None:
    """The verdict on stdout; renderings sent to `-` take its place."""
    from clipguard.cli.show import out
    from clipguard.report.outputs import STDOUT

    if not any(path == STDOUT for _, path in wanted):
        text = RENDERERS.build("text").render(record, folder)
        out(text.partition("\n")[0] if quiet else text.rstrip("\n"))
    if not quiet:
        sys.stderr.write(f"report: {safe_text(folder / 'report.html', 400)}\n")
