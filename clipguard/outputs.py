"""Where renderings go: formats, their files, and writes that are whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clipguard.errors import UsageError
from clipguard.methods import MethodFolder, require_known
from clipguard.text_safety import safe_text

if TYPE_CHECKING:  # types.py imports torch, which renderings do without
    from clipguard.types import Renderer

RENDERERS: MethodFolder[Renderer] = MethodFolder("clipguard.renderers", "format")
SUFFIXES = {"markdown": ".md", "text": ".txt"}
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
    return f"report{SUFFIXES.get(name, f'.{name}')}"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `path` whole or not at all: a temporary file beside it, then a rename.

    Args:
        path: target; missing folders are made.
        content: text (written as UTF-8 with unchanged line ends) or bytes.

    Raises:
        UsageError: the target is a symbolic link or a folder, or cannot be written.
    """
    shown = safe_text(path, 400)
    if path.is_symlink():
        raise UsageError(f"expected a plain file at {shown}, got a symbolic link; name its target")
    if path.is_dir():
        raise UsageError(f"expected a file at {shown}, got a folder; add a file name")
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".clipguard-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~umask())  # mkstemp makes files only their owner can read
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot write {shown}: {reason}; choose another place with -o") from error


def umask() -> int:
    """The rights that this process takes away from every file it makes."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
