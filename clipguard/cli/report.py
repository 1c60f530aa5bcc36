"""`clipguard report`: render a record again, or compare two, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from clipguard.cli.arguments import SarifRoot
from clipguard.cli.tree import HELP
from clipguard.errors import PASS, POLICY_VIOLATED, UsageError
from clipguard.report.formats import RENDERERS

Record = Annotated[
    Path,
    typer.Argument(metavar="AUDIT_JSON", help="A record that `scan` wrote, or its folder."),
]


class _RendersByDefault(TyperGroup):
    """`report AUDIT_JSON` is `report render AUDIT_JSON`; `command_of` reads that, too."""

    usual = "render"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer hides its context class
        """Put the command in front, unless one is named."""
        named = bool(args) and args[0] in {*self.commands, *HELP}
        return super().parse_args(ctx, args if named else [self.usual, *args])


def add_command(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Render a record again, or compare two.",
        cls=_RendersByDefault,
        rich_markup_mode=None,
    )
    group.command()(render)
    group.command()(diff)
    app.add_typer(group, name="report")


def render(
    record: Record,
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
    sarif_root: SarifRoot = None,
) -> None:
    """Render an audit record again, by default as HTML beside it."""
    from clipguard.cli.show import out, placed, record_at
    from clipguard.record.schema import read_record
    from clipguard.report.outputs import (
        STDOUT,
        default_file,
        parse_format,
        require_places,
        write_rendering,
    )
    from clipguard.text_safety import safe_text

    wanted = [parse_format(text) for text in formats or ["html"]]
    if output is not None and all(path is not None for _, path in wanted):
        raise UsageError("-o has no effect where every -f names its PATH; leave out one")
    record = record_at(record)
    found = placed(read_record(record), record, sarif_root)
    beside = output or record.parent
    places = [(name, path or beside / default_file(name)) for name, path in wanted]
    require_places(places, 1)
    texts = [RENDERERS.build(name).render(found, record.parent) for name, _ in wanted]
    pairs = sorted(zip(places, texts, strict=True), key=lambda pair: pair[0][1] == STDOUT)
    for (name, target), text in pairs:  # files first, whatever becomes of standard output
        if target == STDOUT:
            out(text.rstrip("\n"))
            continue
        write_rendering(name, target, text)
        typer.echo(f"wrote {safe_text(target, 400)}", err=True)


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The earlier record, or its folder.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The later record, or its folder.")],
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 if anything differs, as git diff does.")
    ] = False,
) -> None:
    """Say what changed between two records: decision, model, findings, lines of the policy.

    The exit code is 0, whatever differs, unless --exit-code is given.
    """
    from clipguard.cli.show import out, record_at
    from clipguard.record.schema import read_record
    from clipguard.report.diff import changes
    from clipguard.text_safety import safe_text

    found = changes(read_record(record_at(old)), read_record(record_at(new)))
    for change in found:
        note = f"  ({change.note})" if change.note else ""
        out(safe_text(f"{change.what}{note}", 400))
        out(f"  - {safe_text(change.old, 400)}\n  + {safe_text(change.new, 400)}")
    if not found:
        out("no difference")
    raise typer.Exit(POLICY_VIOLATED if found and exit_code else PASS)
