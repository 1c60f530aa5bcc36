"""What a report format is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from clipguard.record import AuditRecord


class Renderer(Protocol):
    """Turns a record into text. Needs no torch."""

    def render(self, record: AuditRecord, folder: Path) -> str:
        """Render `record`, whose relative file names are found in `folder`."""
