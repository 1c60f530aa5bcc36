"""Files that somebody names: read with limits, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text


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


def read_given(path: Path, most: int) -> str:
    """The text of a file that somebody named; a pipe, which may never end, is not read.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        UsageError: missing, no plain file, unreadable, too large, or not UTF-8.
    """
    shown = safe_text(path, 400)
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read {shown}: it is not a plain file; name one")
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise UsageError(f"{shown}: expected at most {most} bytes, got more; shorten it")
        return data.decode("utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot read {shown}: {reason}; check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown}: not UTF-8 text at byte {error.start}; re-save it") from error


def read_json_given(path: Path, most: int) -> object:
    """What a JSON file that somebody named holds.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        UsageError: as `read_given`, or no JSON.
    """
    text = read_given(path, most)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{safe_text(path.name)}: not a JSON file ({safe_text(error)})") from error
