"""`clipguard policy`: check and show policies, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_command(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Check and show policies.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command()(validate)
    group.command()(show)
    app.add_typer(group, name="policy")


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Policies in YAML.")],
) -> None:
    """Check policy files. The first one that is not valid ends the command with exit code 2."""
    from clipguard.policy.judge import load_policy
    from clipguard.text_safety import safe_text

    for file in files:
        policy = load_policy(file)
        typer.echo(f"valid: {safe_text(file, 400)} ({safe_text(policy.name)}, {policy.sha256})")


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="default, strict or research.")],
) -> None:
    """Print a policy with its comments, ready to be copied and edited."""
    from clipguard.policy.judge import load_policy, policy_path, read_policy_text
    from clipguard.text_safety import safe_text

    load_policy(name)
    for line in read_policy_text(policy_path(name)).splitlines():
        typer.echo(safe_text(line, 400))
