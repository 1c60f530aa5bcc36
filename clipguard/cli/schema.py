"""`clipguard schema`: print the JSON Schema of the audit record."""

from __future__ import annotations

import typer


def add_command(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def schema() -> None:
        """Print the JSON Schema of audit.json."""
        import json

        from clipguard.record.schema import json_schema

        typer.echo(json.dumps(json_schema(), indent=2))
