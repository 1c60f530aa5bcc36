"""The record itself, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clipguard.record import AuditRecord
from clipguard.record.schema import dumps

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer


@dataclass(frozen=True, kw_only=True)
class Json:
    """The published schema, for machines."""

    SUFFIX: ClassVar[str] = ".json"
    MARK: ClassVar[str] = r'"schema_version"\s*:\s*"clipguard\.audit/'

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        return dumps(record)

    def join(self, documents: Sequence[str]) -> str:
        """See `Joinable.join`; an array of records."""
        return "[\n" + ",\n".join(text.rstrip("\n") for text in documents) + "\n]\n"


METHOD: type[Renderer] = Json
