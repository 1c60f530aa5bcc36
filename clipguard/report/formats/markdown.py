"""A short page for a job summary: verdict first, then what it rests on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clipguard.record import AuditRecord, Decision
from clipguard.record.wording import verdict
from clipguard.report.blocks import Block, Cell, Chart, Facts, Items, Notes, Table, shortened
from clipguard.report.sections import sections
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer

MARKS = {Decision.PASS: "✅", Decision.INCONCLUSIVE: "⚠️", Decision.FAIL: "❌"}
CELL, SENTENCE = 60, 1200
MARKUP = re.compile(
    r"""[\\`*\[\]<>|~&@$#]    # code, emphasis, link, HTML, cell, strike, entity, mention, formula
    |(?<![^\W_])_|_(?![^\W_])  # emphasis, not within a word
    |:(?=\S)                   # address, emoji
    |(?<=www)\.                # address
    |^[-+=]|(?<=\d)[.)](?=\s|$)  # list, heading
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Marks that GitHub's Markdown may read."""


@dataclass(frozen=True, kw_only=True)
class Markdown:
    """GitHub-flavoured, for `$GITHUB_STEP_SUMMARY`.

    Attributes:
        rows: most rows of a table or a list.
        leaves_out: keys of sections that are not shown.
    """

    SUFFIX: ClassVar[str] = ".md"
    MARK: ClassVar[str] = r"Made by: clipguard "

    rows: int = 15
    leaves_out: tuple[str, ...] = (
        "evidence",
        "triggers",
        "reinversion",
        "export",
        "checkpoint",
        "reproduce",
        "glossary",
    )

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        mark = MARKS[verdict(record).decision]
        lines = []
        for part in shortened(
            sections(record, self.leaves_out), rows=self.rows, leaves_out=self.leaves_out
        ):
            head = f"## {mark}" if part.key == "verdict" else "###"
            lines += [f"{head} {escape(part.heading, SENTENCE)}"]
            lines += [line for block in part.blocks for line in _block(block)]
            lines += [""]
        return "\n".join(lines)

    def join(self, documents: Sequence[str]) -> str:
        """See `Joinable.join`."""
        return "\n".join(documents)


METHOD: type[Renderer] = Markdown


def escape(text: object, limit: int = 80) -> str:
    """Text from outside as Markdown that shows it and does nothing else.

    A mark is escaped where it could start markup, HTML, a table cell, a link, an automatic link, a
    mention, an emoji, a formula or a list; elsewhere it is left, so that the source can be read,
    too. Blanks are single and stand inside, so that none can make a block of code or break a line.
    """
    shown = " ".join(safe_text(text, limit).split())
    return MARKUP.sub(r"\\\g<0>", shown)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, led by an empty one; cells are Markdown already. None without rows."""
    if not rows:
        return []
    cells = [head, ["---"] * len(head), *rows]
    return ["", *(f"| {' | '.join(row)} |" for row in cells)]


def _block(block: Block) -> list[str]:
    match block:
        case Facts():
            return ["", *_title(block.heading), _facts(block)]
        case Table():
            return table([escape(name) for name in block.head], [_row(row) for row in block.rows])
        case Items():
            rows = [f"- {escape(row, SENTENCE)}" for row in block.rows]
            return ["", *_title(block.heading), *rows]
        case Notes():
            rows = [escape(row, SENTENCE) for row in block.rows]
            return ["", " ".join(f"**{row}**" if block.loud else row for row in rows)]
        case Chart():  # the table beside it has the numbers
            return []
        case _:
            shots = [f"- {_facts(shot.facts)}" for shot in block.rows]
            return ["", *_title(block.heading), _facts(block.facts), *shots]


def _title(text: str) -> list[str]:
    return [f"**{escape(text)}**  "] if text else []


def _row(row: Sequence[Cell]) -> list[str]:
    marks = [f"{MARKS[cell.decision]} " if cell.decision else "" for cell in row]
    return [mark + escape(cell.text, CELL) for mark, cell in zip(marks, row, strict=True)]


def _facts(block: Facts) -> str:
    """All of them on one line."""
    told = [f"{escape(fact.label, CELL)}: {escape(fact.text, SENTENCE)}" for fact in block.rows]
    return " · ".join(told)
