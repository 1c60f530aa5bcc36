"""Images that a table names: CSV, TSV and JSON lines; Parquet and Arrow where pyarrow is."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from clipguard.errors import UsageError
from clipguard.files import read_given
from clipguard.probe.columnar import OPENERS, open_columnar
from clipguard.probe.items import Item, Items, Told
from clipguard.text_safety import safe_text

IMAGE = ("image", "file_name", "filepath", "filename", "image_path", "path", "img")
LABEL = ("label", "class", "classname", "class_name", "category")
CAPTION = ("caption", "text", "title")
"""Columns by what they hold, the likeliest name first."""
MAX_BYTES = 64 * 2**20
MAX_ROWS = 2_000_000
TEXT_TABLES = (".csv", ".tsv", ".jsonl")


def table_items(tables: Sequence[Path]) -> Items:
    """The images of tables that have the same columns.

    A relative path is read from the folder of its table. What a table says is a class in its
    column `label`, else a caption.

    Args:
        tables: one file or more, in order.

    Raises:
        UsageError: unreadable, no column with images, no rows, too many, or pyarrow is needed and
            missing.
    """
    found, left = list[Items](), MAX_ROWS
    for one in tables:
        found.append(_columnar(one, left) if one.suffix in OPENERS else _text_table(one, left))
        left -= len(found[-1].items)
    items = tuple(item for part in found for item in part.items)
    if not items:
        raise UsageError(f"no rows in {safe_text(tables[0].name)}")
    names = next((part.names for part in found if part.names), ())
    return Items(items=items, told=found[0].told, names=names)


def _text_table(path: Path, most: int) -> Items:
    text = read_given(path, MAX_BYTES).removeprefix("\ufeff")
    every = _json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text)
    rows = list(islice(every, most + 1))
    _require_few(path, len(rows), most)
    if not rows:
        return Items(items=(), told="nothing")
    image, said, told = _columns(path, list(rows[0]))
    items = []
    for number, row in enumerate(rows, start=1):
        name = row.get(image)
        if not isinstance(name, str) or not name or "\0" in name:
            raise UsageError(
                f"{safe_text(path.name)}, row {number}: expected a file in {image!r}, got "
                f"{safe_text(name)!r}"
            )
        items.append(Item(_said(row.get(said)), partial(_file, path.parent / name)))
    return Items(items=tuple(items), told=_indices(told, items))


def _file(path: Path) -> Path:
    return path


def _said(value: object) -> str:
    return "" if value is None else str(value).strip()


def _csv_rows(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    head = text.partition("\n")[0]
    mark = "\t" if path.suffix == ".tsv" or "\t" in head else ","
    try:
        yield from csv.DictReader(text.splitlines(), delimiter=mark)
    except csv.Error as error:
        raise UsageError(f"{safe_text(path.name)}: not a CSV file ({safe_text(error)})") from error


def _json_rows(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{safe_text(path.name)}, line {number}: not JSON ({safe_text(error)})"
            ) from error
        if not isinstance(row, dict):
            raise UsageError(f"{safe_text(path.name)}, line {number}: expected an object")
        yield row


def _columns(path: Path, known: Sequence[str]) -> tuple[str, str, Told]:
    """The column of images, that of what is said of them, and what that is."""

    def first(wanted: Sequence[str]) -> str | None:
        lower = {str(name).strip().lower(): name for name in known}
        return next((lower[name] for name in wanted if name in lower), None)

    image, label, caption = first(IMAGE), first(LABEL), first(CAPTION)
    if image is None:
        listed = ", ".join(safe_text(name, 40) for name in known[:12])
        raise UsageError(
            f"{safe_text(path.name)}: no column with images (has: {listed}); call it "
            f"{IMAGE[0]!r}, and that of the classes {LABEL[0]!r}"
        )
    if label is not None:
        return image, label, "name"
    return (image, caption, "caption") if caption is not None else (image, "", "nothing")


def _require_few(path: Path, rows: int, most: int) -> None:
    if rows > most:
        raise UsageError(
            f"{safe_text(path.name)}: more than {MAX_ROWS:,} rows with what came before it; give "
            "fewer"
        )


def _columnar(path: Path, most: int) -> Items:
    """The images of a table by columns, as bytes or as paths; classes by name where known."""
    table = open_columnar(path)
    image, said, told = _columns(path, table.names)
    _require_few(path, sum(table.counts), most)  # before any value of them is made
    places = [(number, i) for number, count in enumerate(table.counts) for i in range(count)]
    groups = range(len(table.counts)) if said else ()
    labels = [value for number in groups for value in table.values(number, said)]
    if said and len(labels) != len(places):
        raise UsageError(f"{safe_text(path.name)}: not as many rows as it says; fetch it again")

    @lru_cache(maxsize=1)
    def group(number: int) -> list[Any]:
        return table.values(number, image)

    items = []
    for row, (number, place) in enumerate(places):
        text = _said(labels[row]) if said else ""
        items.append(Item(text, partial(_held, group, number, place, path.parent)))
    names = _class_names(table.metadata, said)
    return Items(items=tuple(items), told=_indices(told, items), names=names)


def _indices(told: Told, items: Sequence[Item]) -> Told:
    """Names that are all numbers are places in the class list."""
    return "index" if told == "name" and all(item.said.isdigit() for item in items) else told


def _held(group: Callable[[int], list[Any]], number: int, place: int, folder: Path) -> Path | bytes:
    """The bytes of an image, or the file that stands for it; nothing is empty bytes."""
    found = group(number)
    value = found[place] if place < len(found) else None
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return folder / value
    return value if isinstance(value, bytes) else b""


def _class_names(metadata: Mapping[bytes, bytes], column: str) -> tuple[str, ...]:
    """Class names that `datasets` writes beside a column of indices; none if it did not."""
    try:
        known = json.loads(metadata.get(b"huggingface", b"{}"))
        names = known["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    good = isinstance(names, list) and all(isinstance(one, str) for one in names)
    return tuple(names) if good else ()
