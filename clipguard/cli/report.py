"""`clipguard report`: render a record again, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipguard.report.formats import RENDERERS


def add_command(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def report(
        record: Annotated[
            Path, typer.Argument(metavar="AUDIT_JSON", help="A record that `scan` wrote.")
        ],
        formats: Annotated[
            list[str] | None,
            typer.Option(
                "-f",
                "--format",
                metavar="FMT[=PATH]",
                help=f"One of {', '.join(RENDERERS.names())}; html if left out. PATH - is standard "
                "output.",
            ),
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option("-o", "--output", metavar="DIR", help="Folder for formats without PATH."),
        ] = None,
    ) -> None:
        """Render an audit record again, by default as HTML beside it."""
        from clipguard.errors import UsageError
        from clipguard.files import write_atomic
        from clipguard.record.schema import read_record
        from clipguard.report.outputs import STDOUT, default_file, parse_format, require_distinct
        from clipguard.text_safety import safe_text

        wanted = [parse_format(text) for text in formats or ["html"]]
        require_distinct(wanted)
        if output is not None and all(path is not None for _, path in wanted):
            raise UsageError("-o has no effect where every -f names its PATH; leave out one")
        found = read_record(record)
        for name, path in wanted:
            text = RENDERERS.build(name).render(found, record.parent)
            if path == STDOUT:
                typer.echo(text, nl=False)
                continue
            target = path or (output or record.parent) / default_file(name)
            write_atomic(target, text)
            typer.echo(f"wrote {safe_text(target, 400)}", err=True)
