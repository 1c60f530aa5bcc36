"""What a report format is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from clipguard.record import AuditRecord


class Renderer(Protocol):
    """Turns a record into text. Needs no torch.

    Attributes:
        SUFFIX: what the name of its file ends with, for example `.html`.
        MARK: regular expression of what each of its documents holds near its beginning or its
            end, and a file of no other tool does: only a file with it may be replaced.
    """

    SUFFIX: ClassVar[str]
    MARK: ClassVar[str]

    def render(self, record: AuditRecord, folder: Path) -> str:
        """Render `record`, whose relative file names are found in `folder`."""


@runtime_checkable
class Joinable(Protocol):
    """A format in which several records can be one document."""

    def join(self, documents: Sequence[str]) -> str:
        """One valid document of several.

        Args:
            documents: what `render` made, two or more.

        Raises:
            UsageError: more than the format takes.
        """
