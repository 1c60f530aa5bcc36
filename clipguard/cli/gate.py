"""`clipguard gate`: decide again from records, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
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
        """Decide again about audited checkpoints; the exit code is the worst of them."""
        from clipguard.errors import worst_exit_code
        from clipguard.outputs import RENDERERS
        from clipguard.policy import judge, load_policy
        from clipguard.schema import read_record

        limits = load_policy(policy)
        found = [(path, read_record(path)) for path in records]
        codes: list[int] = []
        for path, record in found:
            verdict = judge(limits, record)
            codes.append(verdict.exit_code)
            decided = record.model_copy(update={"gate": verdict})
            typer.echo(RENDERERS.build("text").render(decided, path.parent))
        raise typer.Exit(worst_exit_code(codes))
