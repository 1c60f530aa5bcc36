"""The few kinds of blocks that a report is made of; each format draws each kind once.

All texts are as they came: making them harmless is the work of whoever draws them. The content of
every block lies in `rows`, so that one function can shorten any of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from clipguard.record import Decision, FamilyRecord, Rate
from clipguard.record.wording import interval


@dataclass(frozen=True)
class Fact:
    """A value and what it is of.

    Attributes:
        label: what the value is of.
        text: the value in words, with its unit.
        code: to be copied character by character: a digest, a command, a file name.
        loud: stands out.
    """

    label: str
    text: str
    code: bool = False
    loud: bool = False


@dataclass(frozen=True)
class Facts:
    """Labelled values."""

    rows: tuple[Fact, ...]
    heading: str = ""


@dataclass(frozen=True)
class Cell:
    """A place in a table.

    Attributes:
        text: what stands there.
        rate: the rate that `text` words, for formats that draw its interval.
        decision: what `text` says, for formats that draw a sign.
        more: a sentence about the row, for formats with room.
    """

    text: str
    rate: Rate | None = None
    decision: Decision | None = None
    more: str = ""


def measured(rate: Rate | None) -> Cell:
    """A rate in a table, or that it was not measured."""
    return Cell(interval(rate), rate)


@dataclass(frozen=True)
class Table:
    """Rows under a head; column `name` is what a row is about."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    name: int = 0


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    rows: tuple[str, ...]
    heading: str = ""


@dataclass(frozen=True)
class Notes:
    """Sentences to read with what stands beside them; loud ones change what it means."""

    rows: tuple[str, ...]
    loud: bool = False


@dataclass(frozen=True)
class Chart:
    """Trigger families against their null bands; a table beside it has the numbers in words."""

    rows: tuple[FamilyRecord, ...]


@dataclass(frozen=True)
class Picture:
    """A PNG that the record names, if it names one, and what is on it."""

    file: str | None
    alt: str


@dataclass(frozen=True)
class Shot:
    """One image: as it is, with a trigger, and so read by a repaired model.

    Attributes:
        pictures: as many as there are facts.
        facts: how each is read.
    """

    pictures: tuple[Picture, ...]
    facts: Facts


@dataclass(frozen=True)
class Pictures:
    """A trigger and images that carry it."""

    heading: str
    trigger: Picture
    facts: Facts
    rows: tuple[Shot, ...]


Block = Facts | Table | Items | Notes | Chart | Pictures


@dataclass(frozen=True)
class Section:
    """One subject of a report; `key` names it for formats and styles."""

    key: str
    heading: str
    blocks: tuple[Block, ...]


def shortened(
    whole: tuple[Section, ...], *, rows: int, pictures: int = 4, leaves_out: Collection[str] = ()
) -> tuple[Section, ...]:
    """The sections that one format shows, with every cut told.

    Args:
        whole: all sections of a report.
        rows: most rows of a block.
        pictures: most triggers of a section, and most examples of a trigger.
        leaves_out: keys of sections that are not shown.
    """
    return tuple(
        replace(section, blocks=tuple(_cut(section.blocks, rows, pictures)))
        for section in whole
        if section.key not in leaves_out
    )


def _cut(blocks: tuple[Block, ...], rows: int, pictures: int) -> Iterator[Block]:
    seen = 0
    for block in blocks:
        pictured = isinstance(block, Pictures)
        seen += pictured
        if pictured and seen > pictures:
            continue
        limit = pictures if pictured else rows
        yield replace(block, rows=block.rows[:limit])  # type: ignore[arg-type]
        yield from _told(len(block.rows) - limit)
    yield from _told(seen - pictures)


def _told(left: int) -> Iterator[Notes]:
    if left > 0:
        yield Notes((f"{left} more not shown here; all of them are in audit.json.",))
