"""A plain summary for a terminal: verdict, reasons, tables. No colour codes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clipguard.record import AuditRecord
from clipguard.report.blocks import Block, Chart, Fact, Facts, Items, Notes, Table, shortened
from clipguard.report.sections import sections
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer

WIDTH, CELL, SENTENCE = 100, 60, 1200
FIRST = ("verdict", "waivers")


@dataclass(frozen=True, kw_only=True)
class Text:
    """What `scan` prints: the decision and what it rests on; the HTML file has all.

    Attributes:
        rows: most rows of a table or a list.
        leaves_out: keys of sections that are not shown.
        brief: show the first screen alone: the decision, what to do, why, and the waivers.
    """

    SUFFIX: ClassVar[str] = ".txt"
    MARK: ClassVar[str] = r"Made by +clipguard "

    rows: int = 40
    leaves_out: tuple[str, ...] = (
        *("evidence", "triggers", "reinversion", "export"),
        *("checkpoint", "reproduce", "glossary"),
    )
    brief: bool = False

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        shown = shortened(
            sections(record, self.leaves_out), rows=self.rows, leaves_out=self.leaves_out
        )
        parts = [
            [safe_text(part.heading, SENTENCE), *(line for b in part.blocks for line in _block(b))]
            for part in shown
            if not self.brief or part.key in FIRST
        ]
        return "\n\n".join("\n".join(part) for part in parts) + "\n"

    def join(self, documents: Sequence[str]) -> str:
        """See `Joinable.join`."""
        return "\n".join(documents)


METHOD: type[Renderer] = Text


def _block(block: Block) -> list[str]:
    match block:
        case Facts():
            return [*_title(block.heading), *_facts(block.rows)]
        case Table():
            return [*_title(block.caption), *_table(block)]
        case Items():
            lines = [line for row in block.rows for line in _said("-", row)]
            return [*_title(block.heading), *lines]
        case Notes():
            return [line for row in block.rows for line in _said("!" if block.loud else "*", row)]
        case Chart():  # the table beside it has the numbers
            return []
        case _:
            facts = [fact for shot in block.rows for fact in shot.facts.rows]
            return [*_title(block.heading), *_facts((*block.facts.rows, *facts))]


def _title(text: str) -> list[str]:
    return [f"  {safe_text(text)}"] if text else []


def _said(label: str, text: str, width: int = 1) -> list[str]:
    """A labelled sentence; what it is wrapped to begins with a mark, not with text from outside."""
    lines = textwrap.wrap(safe_text(text, SENTENCE), WIDTH - 5 - width, break_on_hyphens=False)
    first, *rest = lines or ["-"]
    return [f"    {label:<{width}} {first}", *(f"    {'|':>{width}} {line}" for line in rest)]


def _facts(facts: Sequence[Fact]) -> list[str]:
    labels = [safe_text(fact.label, CELL) for fact in facts]
    width = max(map(len, labels), default=0) + 1
    return [
        line
        for label, fact in zip(labels, facts, strict=True)
        for line in _said(label, fact.text, width)
    ]


def _table(table: Table) -> list[str]:
    """Columns as wide as their widest cell."""
    rows = [table.head, *([safe_text(cell.text, CELL) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return ["    " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
