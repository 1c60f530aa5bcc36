"""Where renderings go: formats and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipguard.errors import UsageError
from clipguard.files import write_atomic
from clipguard.record import AuditRecord
from clipguard.registry import require_known
from clipguard.report.formats import RENDERERS
from clipguard.report.roles import Joinable
from clipguard.text_safety import safe_text

STDOUT = Path("-")
MOST = {"sarif": 20}
"""Models of one document, where its readers take no more: GitHub takes 20 runs."""
LOOKED_AT = 2**16
"""Bytes at both ends of a file, in which its mark must stand."""
ALIASES = {"md": "markdown", "in-toto": "intoto"}


def parse_format(text: str) -> tuple[str, Path | None]:
    """Read `FMT` or `FMT=PATH`.

    Returns:
        The format, and where it goes; None for beside the record, `STDOUT` for `-`.

    Raises:
        UsageError: unknown format, or `FMT=` without a path.
    """
    name, sign, path = text.partition("=")
    name = ALIASES.get(name, name)
    require_known(safe_text(name), RENDERERS.names(), RENDERERS.what)
    if sign and not path:
        raise UsageError(f"expected {name}=PATH, got no path; give one, or only {name}")
    return name, Path(path) if sign else None


def require_places(wanted: Sequence[tuple[str, Path | None]], records: int) -> None:
    """Stop before renderings overwrite each other, or what somebody else wrote.

    Args:
        wanted: format and target of each; None for beside the record.
        records: how many there will be.

    Raises:
        UsageError: as `require_distinct`, `require_joinable` and `require_replaceable`.
    """
    require_distinct(wanted)
    require_joinable(wanted, records)
    for name, path in wanted:
        if path is not None:
            require_replaceable(name, path)


def require_joinable(wanted: Sequence[tuple[str, Path | None]], records: int) -> None:
    """Stop before several models overwrite each other, or run together in one file.

    Args:
        wanted: what `parse_format` made of each `-f`.
        records: how many there will be.

    Raises:
        UsageError: a format that has one document for each model is to go into one place, or one
            that takes fewer.
    """
    for name, path in wanted if records > 1 else ():
        most = MOST.get(name, records)
        if path is not None and records > most:
            raise UsageError(
                f"one {name} file takes at most {most} models, got {records}; give fewer, or leave "
                "out =PATH in `scan` to get a file for each"
            )
        if path is not None and not isinstance(RENDERERS.build(name), Joinable):
            raise UsageError(
                f"{name} has one document for each model, and {records} were given; leave out "
                "=PATH in `scan`, or give one record at a time"
            )


def rendered(
    name: str,
    records: Sequence[tuple[AuditRecord, Path]],
    settings: Mapping[str, object] | None = None,
) -> str:
    """One document about all records.

    Args:
        name: of the format.
        records: each with the folder that its file names are relative to.
        settings: of the format.

    Raises:
        UsageError: the format has no document for so many.
    """
    renderer = RENDERERS.build(name, settings)
    texts = [renderer.render(record, folder) for record, folder in records]
    if len(texts) == 1:
        return texts[0]
    require_joinable([(name, STDOUT)], len(texts))
    return renderer.join(texts) if isinstance(renderer, Joinable) else ""


def repository_root(start: Path) -> Path:
    """The folder at or above `start` that holds `.git`; `start` where there is none."""
    whole = start.absolute()
    return next((up for up in (whole, *whole.parents) if (up / ".git").exists()), whole)


def location_in(path: Path, root: Path) -> str | None:
    """Where a file lies, from `root` and with `/`; None if it lies elsewhere."""
    try:
        found = path.absolute().resolve().relative_to(root.resolve())
    except (OSError, ValueError):
        return None
    return found.as_posix() if found.parts else None


def require_distinct(wanted: Sequence[tuple[str, Path | None]]) -> None:
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


def write_rendering(name: str, path: Path, text: str) -> None:
    """Write a rendering, never over what clipguard did not write.

    Args:
        name: of the format.
        path: target; missing folders are made.
        text: the document.

    Raises:
        UsageError: as `require_replaceable`, or it cannot be written.
    """
    require_replaceable(name, path)
    write_atomic(path, text)


def require_replaceable(name: str, path: Path) -> None:
    """Refuse to put a rendering over a file that somebody else wrote; an empty one is nobody's.

    Args:
        name: of the format.
        path: target.

    Raises:
        UsageError: a file that is no rendering of this format stands there.
    """
    if path.is_file() and not path.is_symlink() and not is_ours(name, path):
        raise UsageError(
            f"{safe_text(path, 400)} is there, and no {name} that clipguard wrote; move it, or "
            "name another file"
        )


def is_ours(name: str, path: Path) -> bool:
    """Whether a plain file is empty, or a rendering of this format.

    Raises:
        UsageError: it cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        return False
    return path.stat().st_size == 0 or holds(path, RENDERERS.build(name).MARK)


def is_record(path: Path) -> bool:
    """Whether a file is the record of one audit, or was one before it was damaged."""
    return holds(path, rf"(?s)\A\s*\{{.*{RENDERERS.build('json').MARK}")


def holds(path: Path, mark: str) -> bool:
    """Whether a plain file has a text near its beginning or its end.

    Args:
        path: the file.
        mark: regular expression.

    Raises:
        UsageError: it cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as opened:
            head = opened.read(LOOKED_AT)
            opened.seek(max(0, path.stat().st_size - LOOKED_AT))
            return re.search(mark.encode("ascii"), head + opened.read()) is not None
    except OSError as error:
        shown = safe_text(path, 400)
        raise UsageError(f"cannot read {shown}: {error.strerror}; move it away") from error
