"""Files that ship with clipguard: templates, policies, bundled data. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

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


def digest_of(patterns: Iterable[str]) -> str:
    """Digest of the files of the package whose path matches one of `patterns`: 64 hex digits."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in PACKAGE.glob(pattern)}):
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
