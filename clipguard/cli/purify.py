"""`clipguard purify`: a repaired model, with proof, whatever the verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipguard.cli.arguments import (
    Arch,
    Calibration,
    Checkpoint,
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
    Sandbox,
    SandboxMode,
    ScanSeed,
    Templates,
    TextFrom,
)
from clipguard.errors import (
    EXPORT,
    INCONCLUSIVE,
    PASS,
    PURIFY_MISSED,
    InconclusiveError,
    RefusedError,
    worst_exit_code,
)
from clipguard.stopping import ends_soon
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.record import AuditRecord, PurificationRecord


def add_command(app: typer.Typer) -> None:
    """Add `purify`."""
    app.command("purify")(purify)


def purify(
    model: Checkpoint,
    output_dir: OutputDir = Path("clipguard-report"),
    policy: PolicyName = "default",
    profile: HowHard = Profile.standard,
    purifier: HowToRepair = Purifier.both,
    seed: ScanSeed = None,
    probe_data: ProbeData = None,
    classnames: ClassNames = None,
    templates: Templates = None,
    calibration: Calibration = None,
    reference: Reference = None,
    arch: Arch = None,
    text_from: TextFrom = None,
    lora_base: LoraBase = None,
    device: Device = "auto",
    sandbox: Sandbox = SandboxMode.auto,
    quiet: Quiet = False,
) -> None:
    """Repair the model, whatever a scan decides.

    Exit code 7: a limit of the policy was missed. Exit code 3: a limit could not be measured, for
    example without labels or null band.

    `--purifier cbpt` repairs the classifier of this class list only; the tower stays poisoned.
    """
    from clipguard.cli.show import progress_bar, require_given

    require_given([model], locals())
    from clipguard.audit.options import Options
    from clipguard.audit.scan import audit
    from clipguard.files import write_atomic
    from clipguard.policy.judge import load_policy
    from clipguard.probe.load import ProbeSource
    from clipguard.report.formats import RENDERERS

    options = Options(
        policy=load_policy(policy),
        profile=profile.value,
        seed=seed,
        purify="always",
        purifier=purifier.value,
        release="purified",
        arch=arch,
        text_from=text_from,
        lora_base=lora_base,
        calibration=calibration,
        reference=reference,
        probe=ProbeSource(images=probe_data, class_names=classnames, templates=templates),
        device=device,
        sandbox=sandbox.value,
    )
    with ends_soon(), progress_bar(quiet) as progress:
        record = audit(model, options, output_dir, progress=progress)
    write_atomic(output_dir / "report.html", RENDERERS.build("html").render(record, output_dir))
    _show(_made(record))
    sys.stderr.write(f"report: {safe_text(output_dir / 'report.html', 400)}\n")
    raise typer.Exit(_judge(record))


def _made(record: AuditRecord) -> PurificationRecord:
    """The repair, where there is one.

    Raises:
        RefusedError: the file was refused.
        InconclusiveError: nothing was repaired.
    """
    if record.refused is not None:
        raise RefusedError(record.refused.says)
    if record.purification is None:
        raise InconclusiveError(record.errors[-1].message if record.errors else "nothing to purify")
    return record.purification


def _show(made: PurificationRecord) -> None:
    """The rates before and after, and what the repair covers."""
    from clipguard.record.wording import interval

    for name, rates in (("before", made.before), ("after", made.after)):
        shown = [f"ASR {interval(rates.asr)}"]
        if rates.clean_accuracy and rates.poisoned_accuracy:
            shown.append(f"CA {interval(rates.clean_accuracy)}")
            shown.append(f"PA {interval(rates.poisoned_accuracy)}")
        typer.echo(f"{name:6} {', '.join(shown)}")
    typer.echo(made.statement)


def _judge(record: AuditRecord) -> int:
    """Say what was missed or not measured; the worst of it is the exit code."""
    from clipguard.record import Decision

    codes = [error.exit_code for error in record.errors if error.stage == "export"]
    for error in record.errors:
        sys.stderr.write(f"error: {safe_text(error.message, 400)}\n")
    for check in record.gate.checks if record.gate else ():
        if check.key.startswith("export.") and check.result is Decision.FAIL:
            codes.append(EXPORT)
        if check.key.startswith("purification.") and check.result is not Decision.PASS:
            missed = check.result is Decision.FAIL
            codes.append(PURIFY_MISSED if missed else INCONCLUSIVE)
            told = "missed" if missed else "cannot tell"
            sys.stderr.write(f"{told}: {safe_text(check.reason, 400)}\n")
    return worst_exit_code(codes or [PASS])
