"""`clipguard config`: which options hold, and where each comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text


def add_command(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Options of this repository.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command(context_settings={"ignore_unknown_options": True})(show)
    app.add_typer(group, name="config")


def show(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND ...]", help="A command, with options if you like; scan if left out."
        ),
    ] = None,
) -> None:
    """Print every option of a command, its value, and where that comes from.

    The command line wins over CLIPGUARD_* variables, these over clipguard.toml or
    [tool.clipguard] in pyproject.toml, and this over the default.
    """
    from clipguard.cli.app import build_app
    from clipguard.cli.settings import settings_file, settings_for
    from clipguard.cli.tree import command_of, options_of

    root: Any = typer.main.get_command(build_app())
    command, path, rest = command_of(root, words or ["scan"])
    known = options_of(command)
    if not known:
        raise UsageError(f"no command {safe_text(' '.join(words or []))!r} with options")
    parser = command.make_parser(command.context_class(command))
    given, _, _ = parser.parse_args(list(rest))
    found = settings_file(Path())
    made = settings_for(root, path, found)
    typer.echo(f"# {' '.join(path)}; file: {safe_text(found.path, 400) if found else 'none'}")
    for key, param in known.items():
        if param.name in given:
            value, origin = given[param.name], "command line"
        elif key in made:
            value, origin = made[key]
        else:
            value, origin = param.default, "default"
        typer.echo(f"{key} = {_shown(value)}  # {origin}")


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "not set"
    plain = getattr(value, "value", value)
    return str(plain).lower() if isinstance(plain, bool) else safe_text(plain, 400)
