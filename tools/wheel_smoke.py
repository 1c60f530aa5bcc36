"""Run every command of an installed clipguard once on small input, and check what it says.

    python -m venv empty && empty/bin/pip install dist/*.whl
    empty/bin/python tools/wheel_smoke.py

The list of commands comes from the app itself, so a new command without a case fails here, and
so does a case whose command is gone. Refuses to run on a checkout or an editable install, which
would hide files that are missing from the wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import typer.main

from clipguard import __version__
from clipguard.cli.app import build
from clipguard.errors import INCONCLUSIVE
from clipguard.record import (
    AuditRecord,
    CalibrationRecord,
    CoverageRecord,
    TimesRecord,
    ToolRecord,
)
from clipguard.resources import PACKAGE, shipped
from clipguard.schema import dumps


@dataclass(frozen=True)
class Case:
    """One call of a command.

    Attributes:
        command: the command, for example `policy validate`.
        arguments: what follows it; `{policies}` is the folder of the shipped policies. Cases
            run in order in one folder with a small `audit.json` in it, so a later one may also
            read what an earlier one wrote.
        code: exit code it must end with.
        says: words its output, standard output and error together, must contain.
        writes: files that must be there, and not empty, afterwards.
    """

    command: str
    arguments: tuple[str, ...]
    code: int
    says: str
    writes: tuple[str, ...] = ()


CASES = (
    Case("doctor", ("--json",), 0, '"ok": true'),
    Case("doctor", (), 0, "bundled files"),
    Case("policy validate", ("{policies}/default.yaml", "{policies}/strict.yaml"), 0, "valid"),
    Case("policy show", ("default",), 0, "backdoor:"),
    Case("schema", (), 0, '"$defs"'),
    Case("gate", ("--policy", "strict", "audit.json"), INCONCLUSIVE, "Cannot tell"),
    Case("report", ("audit.json",), 0, "wrote report.html", ("report.html",)),
    Case("report", ("-f", "sarif", "-f", "json=again.json", "audit.json"), 0, "", ("again.json",)),
    Case("report", ("-f", "markdown=-", "audit.json"), 0, "Cannot tell"),
)


def unfinished() -> AuditRecord:
    """A record of an audit that looked at nothing."""
    return AuditRecord(
        complete=False,
        tool=ToolRecord(version=__version__),
        command="clipguard scan model.pt",
        settings={},
        environment={},
        checkpoint=None,
        probe=None,
        calibration=CalibrationRecord(kind="none", reason="a smoke test"),
        coverage=CoverageRecord(),
        times=TimesRecord(created="2026-01-01T00:00:00Z", seconds={}),
    )


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command below `group`, as a person types it."""
    if isinstance(group, click.Group):
        for name, command in sorted(group.commands.items()):
            yield from commands(command, (*path, name))
    else:
        yield " ".join(path)


def complaints(case: Case, folder: Path) -> list[str]:
    """Run `case` in `folder`; what is wrong with its result."""
    places = {"policies": str(shipped("policies"))}
    arguments = [argument.format(**places) for argument in case.arguments]
    done = subprocess.run(
        [sys.executable, "-m", "clipguard", *case.command.split(), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    wrong = []
    if done.returncode != case.code:
        wrong.append(f"expected exit code {case.code}, got {done.returncode}")
    if case.says not in output:
        wrong.append(f"expected {case.says!r} in its output")
    for name in case.writes:
        path = folder / name
        if not path.is_file() or path.stat().st_size == 0:
            wrong.append(f"expected the file {name}")
    return [*wrong, output] if wrong else []


def main() -> int:
    if not shipped("policies").is_relative_to(PACKAGE):
        print(f"expected an installed wheel, got a checkout at {PACKAGE}; install the wheel")
        return 2
    listed = set(commands(typer.main.get_command(build())))
    covered = {case.command for case in CASES}
    failed = [f"no case for the command {name!r}" for name in sorted(listed - covered)]
    failed += [f"a case for {name!r}, which is no command" for name in sorted(covered - listed)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "audit.json").write_text(dumps(unfinished()), encoding="utf-8")
        for case in CASES:
            start = time.monotonic()
            wrong = complaints(case, Path(folder))
            print(
                f"{'FAIL' if wrong else 'ok':4} {time.monotonic() - start:6.1f} s  {case.command}"
            )
            failed += [f"{case.command}: {text}" for text in wrong]
    print(*failed, sep="\n")
    print(f"{len(CASES)} cases, {len(failed)} complaints")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
