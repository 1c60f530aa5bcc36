"""Files that somebody names: read with limits, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

MOST_NAMES, NEAR = 5000, 0.75
"""Names of a folder that a mistyped one is compared with, and how alike it must be to be told."""


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
        sweep(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=mark(), dir=path.parent)
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


def mark() -> str:
    """How the names of things begin that only this process needs, for `sweep`."""
    return f".clipguard-{_machine()}-{os.getpid()}-"


def sweep(folder: Path) -> None:
    """Remove what processes left in `folder` that were killed: things of ours with their mark.

    Args:
        folder: that things with a `mark` are made in.
    """
    if os.name != "posix":  # elsewhere one cannot ask for a process without ending it
        return
    for entry in os.scandir(folder):
        found = re.match(rf"\.clipguard-{_machine()}-(\d{{1,10}})-", entry.name)
        if found is None or _lives(int(found[1])):
            continue
        if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@lru_cache(maxsize=1)
def _machine() -> str:
    """Where a number means one process: another machine, or container, has others."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def umask() -> int:
    """The rights that this process takes away from every file it makes."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def require_path(path: Path, what: str = "") -> None:
    """Stop before anything else is touched if a path was mistyped.

    Args:
        path: of a file or a folder.
        what: the option that it was given with, if it was one.

    Raises:
        UsageError: nothing there; a name beside it that is nearly the same is told.
    """
    if path.is_dir() or path.is_file():
        return
    beside = os.scandir(path.parent) if path.parent.is_dir() else ()
    names = [entry.name for entry in islice(beside, MOST_NAMES)]
    close = get_close_matches(path.name, names, 1, NEAR)
    hint = f"did you mean {safe_text(path.parent / close[0], 400)}?" if close else "check the path"
    told = f"{what}: " if what else ""
    raise UsageError(f"{told}no file or folder at {safe_text(path)}; {hint}")


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
