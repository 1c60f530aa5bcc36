"""What lies where somebody says: folders of classes, a table, or tar files."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from clipguard.errors import UsageError
from clipguard.model.prompts import read_class_names
from clipguard.probe.columnar import OPENERS
from clipguard.probe.items import IMAGE_SUFFIXES, UNREAD_SUFFIXES, Item, Items
from clipguard.probe.shards import shard_items
from clipguard.probe.tables import TEXT_TABLES, table_items
from clipguard.text_safety import safe_text

SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
SHOWN = 5
METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables that `datasets` looks for in a folder of images."""
SPLITS = (".", "test", "validation", "val", "train", "data")
"""Folders in which tables and tar files may lie, those that were not trained on first."""
CACHED = "cache-"
"""How the names of files begin that `datasets` keeps beside those of a set."""
TAR = ".tar"
CLASSNAMES = "classnames.txt"
"""The class list of the layout of CLIP_benchmark."""


def items_at(place: Path) -> Items:
    """The images at `place`.

    A file is a table (CSV, TSV, JSON lines, Parquet, Arrow) or a tar file. A folder holds a
    `metadata.csv` or `metadata.jsonl`, tar files, Parquet or Arrow files, or one folder of images
    per class, or images alone.

    Raises:
        UsageError: nothing there, or nothing that can be read as images.
    """
    if place.is_file():
        if place.suffix not in (*TEXT_TABLES, *OPENERS, TAR):
            known = ", ".join((*TEXT_TABLES, *OPENERS, TAR))
            raise UsageError(
                f"{safe_text(place.name)}: expected a folder of images, or a file of {known}"
            )
        return shard_items([place]) if place.suffix == TAR else table_items([place])
    if not place.is_dir():
        raise UsageError(f"no folder of probe images at {safe_text(place)}")
    for split in SPLITS:
        inside = place / split
        for name in METADATA:
            if (inside / name).is_file():
                return table_items([inside / name])
        if shards := sorted(inside.glob(f"*{TAR}")):
            return _with_names(shard_items(shards), place)
        for suffix in OPENERS:
            found = (one for one in inside.glob(f"*{suffix}") if not one.name.startswith(CACHED))
            if tables := sorted(found):
                return table_items(tables)
    return _of_folders(place)


def _with_names(found: Items, place: Path) -> Items:
    """With the class list beside tar files, if there is one."""
    beside = place / CLASSNAMES
    if not beside.is_file():
        return found
    names, warnings = read_class_names(beside)
    told = (*found.warnings, *warnings)
    return Items(items=found.items, told=found.told, names=names, warnings=told)


def _of_folders(place: Path) -> Items:
    """One folder of images per class, or images alone; what is hidden or not read is counted."""
    stray, unread = Counter[str](), Counter[str]()

    def images(pattern: str) -> list[Path]:
        kept = []
        for path in sorted(place.glob(pattern)):
            suffix = path.suffix.lower()
            odd = next(filter(_is_stray, path.relative_to(place).parts), None)
            if suffix in IMAGE_SUFFIXES and odd is not None:
                stray[odd] += 1
            elif suffix in IMAGE_SUFFIXES:
                kept.append(path)
            elif suffix in UNREAD_SUFFIXES and odd is None:
                unread[suffix] += 1
        return kept

    files = images("*/*")
    found = files or images("*")
    told = _not_read(unread)
    if not found:
        shown = safe_text(place, 400)
        wanted = (
            f"no images in {shown} and in the folders in it; expected one folder of images per "
            f"class ({shown}/CLASS/*), a table, or tar files"
        )
        raise UsageError("; ".join((wanted, *told)))
    items = tuple(Item(path.parent.name if files else "", partial(_file, path)) for path in found)
    names = ", ".join(repr(safe_text(name)) for name in sorted(stray)[:SHOWN])
    if stray:
        told = (f"left out {stray.total()} images in hidden and system files: {names}", *told)
    return Items(items=items, told="name" if files else "nothing", warnings=told)


def _not_read(unread: Counter[str]) -> tuple[str, ...]:
    """The warning about images of formats that are not read; none where there are none."""
    if not unread:
        return ()
    found = f"left out {unread.total()} images that are not read ({', '.join(sorted(unread))})"
    return (f"{found}; convert them to PNG or JPEG",)


def _file(path: Path) -> Path:
    return path


def _is_stray(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS
