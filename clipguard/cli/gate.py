"""`clipguard gate`: decide again from records, without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import clipguard


def add_command(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def gate(
        records: Annotated[
            list[Path], typer.Argument(metavar="AUDIT_JSON...", help="Records that `scan` wrote.")
        ],
        policy: Annotated[
            str, typer.Option(metavar="NAME|FILE", help="Shipped policy or YAML file.")
        ] = "default",
    ) -> None:
        """Decide again from records, without a scan. The exit code is the gravest of all."""
        from clipguard.errors import ENVIRONMENT, ClipguardError, worst_exit_code
        from clipguard.policy.judge import load_policy
        from clipguard.record.schema import read_record
        from clipguard.report.formats import RENDERERS
        from clipguard.text_safety import safe_text

        load_policy(policy)  # a policy that is not valid is said once
        codes: list[int] = []
        for path in records:
            try:  # one bad record must not hide another's finding
                record = read_record(path)
                verdict = clipguard.judge(record, policy)
                codes.append(verdict.exit_code)
                decided = record.model_copy(update={"gate": verdict})
                typer.echo(RENDERERS.build("text").render(decided, path.parent))
            except ClipguardError as error:
                sys.stderr.write(f"error: {safe_text(error, 2000)}\n")
                codes.append(error.exit_code)
            except (ArithmeticError, ValueError) as error:  # numbers that nothing can be made of
                sys.stderr.write(f"error: {safe_text(path, 400)}: {safe_text(error, 400)}\n")
                codes.append(ENVIRONMENT)
        raise typer.Exit(worst_exit_code(codes))
