"""What a report format is."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from clipguard.record import AuditRecord


class Renderer(Protocol):
    """Turns a record into text. Needs no torch.

    Attributes:
        SUFFIX: what the name of its file ends with, for example `.html`.
    """

    SUFFIX: ClassVar[str]

    def render(self, record: AuditRecord, folder: Path) -> str:
        """Render `record`, whose relative file names are found in `folder`."""
