"""Files that ship with clipguard: templates, policies, bundled data. No torch here."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The folder `reports/templates`, `policies` or `examples`, installed or in a checkout.

    The wheel carries them inside the package (force-include in pyproject.toml); an editable
    install and a checkout read them where they are edited.
    """
    installed = PACKAGE / "_data" / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder


def asset(name: str) -> Path:
    """The bundled file or folder `name` (artwork, nano models, class list, calibration)."""
    return PACKAGE / "assets" / name


@cache
def data_digest(patterns: tuple[str, ...]) -> str:
    """64 hex digits of the bundled files whose name matches one of `patterns`."""
    root, digest = asset(""), hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        name = path.relative_to(root).as_posix()
        digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
