"""`clipguard gate`: decide again from records, without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguard.cli.arguments import SarifRoot, WaiverFile
from clipguard.report.formats import RENDERERS

if TYPE_CHECKING:
    from clipguard.policy.judge import Policy, Waivers
    from clipguard.record import AuditRecord

Decided = tuple["AuditRecord", Path]
"""A record with its new decision, and the folder that it lies in."""


def add_command(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(gate)


Records = Annotated[
    list[Path],
    typer.Argument(
        metavar="AUDIT_JSON...",
        help="Records that `scan` wrote, or folders that hold some, however deep.",
    ),
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        metavar="FILE",
        help="What the record must be about: the model, or the ONNX file that was made of it. "
        "May be repeated.",
    ),
]
AdapterBase = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL", help="CLIP that --model is merged into, if it is a LoRA adapter."
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "-f",
        "--format",
        metavar="FMT[=PATH]",
        help=f"One of {', '.join(RENDERERS.names())}, about all records. Standard output without "
        "PATH. The beginning of text if left out.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="The whole text, as -f text.")]


def gate(
    records: Records,
    policy: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Shipped policy or YAML file.")
    ] = "default",
    waivers: WaiverFile = None,
    models: Models = None,
    lora_base: AdapterBase = None,
    formats: Formats = None,
    verbose: Verbose = False,
    sarif_root: SarifRoot = None,
) -> None:
    """Decide again from records, without a scan. The exit code is the gravest of all."""
    from clipguard.cli.show import out, records_in
    from clipguard.errors import INCONCLUSIVE, UsageError, worst_exit_code
    from clipguard.policy.judge import load_policy, load_waivers
    from clipguard.report.outputs import (
        STDOUT,
        parse_format,
        rendered,
        require_places,
        write_rendering,
    )

    if verbose and formats:
        raise UsageError("--verbose has no effect beside -f; leave out one of the two")
    wanted = [parse_format(text) for text in formats or ["text"]]
    settings = {"brief": True} if not formats and not verbose else {}
    rules = load_policy(policy)
    given = None if waivers is None else load_waivers(waivers)
    digests = {model: _digest(model, lora_base) for model in models or ()}
    paths = [path for record in records for path in records_in(record)]
    places = [(name, path or STDOUT) for name, path in wanted]
    require_places(places, len(paths))
    decided, codes = _decided(paths, rules, given, list(digests.values()), sarif_root)
    named = {digest for record, _ in decided for digest in _named(record)}
    for model in (one for one, digest in digests.items() if digest not in named):
        _say(f"no record is about {model}")
        codes.append(INCONCLUSIVE)
    if decided:
        texts = [(name, path, rendered(name, decided, settings)) for name, path in places]
        for name, path, text in sorted(texts, key=lambda made: made[1] == STDOUT):
            if path == STDOUT:
                out(text.rstrip("\n"))
            else:
                write_rendering(name, path, text)
    _told_unused(given, decided)
    raise typer.Exit(worst_exit_code(codes))


def _decided(
    paths: Sequence[Path],
    policy: Policy,
    waivers: Waivers | None,
    files: list[str],
    sarif_root: Path | None,
) -> tuple[list[Decided], list[int]]:
    """Every record that can be read, decided, and the exit codes of all."""
    from clipguard.cli.show import placed
    from clipguard.errors import ENVIRONMENT, ClipguardError
    from clipguard.policy.judge import judge
    from clipguard.record.schema import read_record

    decided: list[Decided] = []
    codes: list[int] = []
    for path in paths:
        try:  # one bad record must not hide another's finding
            record = placed(read_record(path), path, sarif_root)
            verdict = judge(policy, record, waivers, files)
        except ClipguardError as error:
            _say(error)
            codes.append(error.exit_code)
        except (ArithmeticError, ValueError) as error:  # numbers that nothing can be made of
            _say(f"{path}: {error}")
            codes.append(ENVIRONMENT)
        else:
            codes.append(verdict.exit_code)
            decided.append((record.model_copy(update={"gate": verdict}), path.parent))
    return decided, codes


def _digest(model: Path, lora_base: Path | None) -> str:
    """The digest of a model as its record has it."""
    from clipguard.checkpoint.folder import digest_of, files_of
    from clipguard.checkpoint.inspection import sha256_of
    from clipguard.errors import UsageError

    def whole(path: Path) -> str:
        found = files_of(path, refusal=lambda file: None)
        if found.others:
            raise UsageError(
                f"{path} holds other models, too ({found.others[0].name}), which no digest of the "
                "record covers; give the weights file that goes out"
            )
        return digest_of([(file.name, sha256_of(file)) for file in found.weights])

    if lora_base is None:
        return whole(model)
    return digest_of([("adapter", whole(model)), ("base", whole(lora_base))])


def _named(record: AuditRecord) -> set[str | None]:
    """Digests of the files that a record is about."""
    from clipguard.record.wording import model_digest

    return {model_digest(record), record.export.sha256 if record.export else None}


def _told_unused(waivers: Waivers | None, decided: Sequence[Decided]) -> None:
    """Name the waivers that changed nothing for any record."""
    rows = waivers.rows if waivers else ()
    gates = [record.gate for record, _ in decided if record.gate]
    for number, row in enumerate(rows):
        states = {gate.waivers[number].state for gate in gates}
        if "used" not in states:
            why = sorted({gate.waivers[number].why for gate in gates} - {""})
            told = ", ".join([*sorted(state.replace("_", " ") for state in states), *why])
            _say(f"waiver {number + 1} ({row.check}, {row.sha256[:12]}): {told}", "warning")


def _say(text: object, what: str = "error") -> None:
    from clipguard.text_safety import safe_text

    sys.stderr.write(f"{what}: {safe_text(text, 2000)}\n")
