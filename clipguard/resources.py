"""Files that ship with clipguard, and text files that somebody names. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The folder `reports/templates` or `policies`, installed or in a checkout.

    The wheel carries both inside the package (force-include in pyproject.toml); an editable
    install and a checkout read them where they are edited.
    """
    installed = PACKAGE / "_data" / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder


def asset(name: str) -> Path:
    """The bundled file or folder `name` (artwork, nano models, class list, calibration)."""
    return PACKAGE / "assets" / name


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


def digest_of(patterns: Iterable[str]) -> str:
    """Digest of the files of the package whose path matches one of `patterns`: 64 hex digits."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in PACKAGE.glob(pattern)}):
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
