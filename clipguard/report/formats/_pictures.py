"""PNG files that a record names, as data URIs. The record may be hostile, so may the files."""

from __future__ import annotations

import base64
from pathlib import Path, PurePosixPath

from markupsafe import Markup

LARGEST = 512 * 1024
BUDGET = 7 * 1024 * 1024
"""Of data URIs in characters: with all the words a page then stays below 8 MB."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Pictures:
    """Reads pictures inside one folder, and stops when a report would become too large."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left = BUDGET

    def __call__(self, name: str | None) -> Markup | None:
        """The picture as a data URI.

        Args:
            name: POSIX path relative to the folder.

        Returns:
            None if it is missing, too large, no PNG, a link, or outside the folder.
        """
        try:
            path = self._inside(name or "")
            if path is None:
                return None
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
        except OSError:  # a name that is too long, too
            return None
        if not data.startswith(SIGNATURE) or len(data) > LARGEST:
            return None
        uri = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
        if len(uri) > self.left:
            return None
        self.left -= len(uri)
        # Base64 needs no escaping, and text that is not markup would be cut to a sentence.
        return Markup(uri)

    def _inside(self, name: str) -> Path | None:
        pure = PurePosixPath(name)
        if pure.is_absolute() or not pure.parts or any(mark in name for mark in "\\:\0"):
            return None
        path = self.folder
        for part in pure.parts:
            path = path / part
            if part == ".." or path.is_symlink():
                return None
        return path if path.is_file() else None
