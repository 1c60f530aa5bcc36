"""Where renderings go: formats and their files."""

from __future__ import annotations

from pathlib import Path

from clipguard.errors import UsageError
from clipguard.registry import require_known
from clipguard.report.formats import RENDERERS
from clipguard.text_safety import safe_text

STDOUT = Path("-")


def parse_format(text: str) -> tuple[str, Path | None]:
    """Read `FMT` or `FMT=PATH`.

    Returns:
        The format, and where it goes; None for beside the record, `STDOUT` for `-`.

    Raises:
        UsageError: unknown format, or `FMT=` without a path.
    """
    name, sign, path = text.partition("=")
    require_known(safe_text(name), RENDERERS.names(), RENDERERS.what)
    if sign and not path:
        raise UsageError(f"expected {name}=PATH, got no path; give one, or only {name}")
    return name, Path(path) if sign else None


def require_distinct(wanted: list[tuple[str, Path | None]]) -> None:
    """Stop before two renderings overwrite each other.

    Args:
        wanted: what `parse_format` made of each `-f`.

    Raises:
        UsageError: one path is named for several formats.
    """
    paths = [path.resolve() for _, path in wanted if path is not None and path != STDOUT]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"-f names {safe_text(path.name)} twice; give each format its own")


def default_file(name: str) -> str:
    """The file name of a rendering for which none was given, for example `report.html`."""
    return f"report{RENDERERS.build(name).SUFFIX}"
