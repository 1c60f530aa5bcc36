"""Class names and prompt templates: read from files, turned into class embeddings."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor
from torch.nn import functional

from clipguard.errors import UsageError
from clipguard.files import read_given
from clipguard.model.roles import ClipModel, require_unit
from clipguard.text_safety import safe_text

MAX_BYTES = 8 * 2**20
SHOWN_DUPLICATES = 5
NOT_NAMES = (
    (r"(class|label|category|cls|id)?[ _-]*[0-9]+", "indices"),
    (r"n[0-9]{8}", "WordNet ids"),
)
"""What data sets call folders that a person has named elsewhere, and what that is."""
CSV_HEADS = ("name", "class", "classname", "class_name", "label")
"""What the second column of a class list may be called in its first line."""


def class_embeddings(
    model: ClipModel, class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """The zero-shot classifier: mean of the unit embeddings of all templates, made unit again.

    Args:
        model: its text tower reads the prompts.
        class_names: C names.
        templates: each with one `{}`.

    Returns:
        (C, D) of unit norm.

    Raises:
        RefusedError: the text tower overflows.
        ValueError: no class names or no templates.
    """
    if not class_names or not templates:
        raise ValueError(f"expected names and templates, got {len(class_names)}, {len(templates)}")
    total = torch.zeros(1, device=model.device)
    for template in templates:
        # not str.format: a name may contain braces of its own
        prompts = [template.replace("{}", name) for name in class_names]
        total = total + model.encode_text(prompts)
    return require_unit(functional.normalize(total, dim=1))


def read_class_names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a class list: UTF-8 text with one name a line, or a `.json` or `.csv` file.

    JSON is a list of names, or an object with the name of each folder of images. CSV has two
    columns: folder and name.

    Returns:
        Distinct names in order of first appearance, and warnings about merged duplicates.

    Raises:
        UsageError: unreadable, empty, or a name with control characters; with the line number.
    """
    text = read_given(path, MAX_BYTES).removeprefix("\ufeff")
    kind = path.suffix.lower()
    lines = {".json": _json_entries, ".csv": _csv_entries}.get(kind, _text_lines)(path, text)
    names = []
    for number, name in lines:
        _require_printable(path, number, name)
        names.append(name)
    if not names:
        raise UsageError(f"{safe_text(path.name)}: no class names; write one name a line")
    return merge_duplicates(names)


def spoken(name: str) -> str:
    """`name` as a tokenizer reads it: without regard to case, blanks and ways to write accents."""
    return " ".join(unicodedata.normalize("NFC", name).lower().split())


def merge_duplicates(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keep the first of names that a tokenizer reads alike, and say which were merged.

    Returns:
        Distinct names in order of first appearance, and warnings.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(spoken(name), []).append(name)
    distinct = tuple(group[0] for group in groups.values())
    twice = [group for group in groups.values() if len(group) > 1]
    if not twice:
        return distinct, ()
    shown = ", ".join(repr(safe_text(group[0])) for group in twice[:SHOWN_DUPLICATES])
    more = f" and {len(twice) - SHOWN_DUPLICATES} more" if len(twice) > SHOWN_DUPLICATES else ""
    told = f"merged {len(names) - len(distinct)} duplicate class names: {shown}{more}"
    if any(len(set(group)) > 1 for group in twice):
        told += "; names that differ in case or blanks alone are one to a tokenizer"
    return distinct, (told,)


def not_names(names: Sequence[str]) -> tuple[str, ...]:
    """A warning where most class names are numbers or WordNet ids, which mean nothing in a prompt.

    Args:
        names: C names.
    """
    for pattern, what in NOT_NAMES:
        odd = [name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)]
        if len(odd) * 2 > len(names):
            shown = ", ".join(repr(safe_text(name)) for name in odd[:SHOWN_DUPLICATES])
            return (
                f"{len(odd)} of {len(names)} classes have {what} for names ({shown}): these are "
                "not class names, so prompts with them mean little and rates are worth little; "
                "rename the folders, or give --classnames FILE.json with a mapping such as "
                f'{{"{safe_text(odd[0])}": "tench"}} (or FILE.csv: {safe_text(odd[0])},tench)',
            )
    return ()


def read_templates(path: Path) -> tuple[str, ...]:
    """Read prompt templates, one a line, each with exactly one `{}` for the class name.

    Raises:
        UsageError: unreadable, none, or a line that is not a template; with the line number.
    """
    templates = []
    for number, line in _lines(read_given(path, MAX_BYTES).removeprefix("\ufeff")):
        _require_printable(path, number, line)
        if line.count("{}") != 1 or line.count("{") != 1 or line.count("}") != 1:
            raise UsageError(
                f"{safe_text(path.name)}, line {number}: expected exactly one {{}} and no other "
                f"braces, got {safe_text(line)!r}"
            )
        templates.append(line)
    if not templates:
        raise UsageError(f"{safe_text(path.name)}: no templates; write one a line, with one {{}}")
    return tuple(dict.fromkeys(templates))


def has_control_characters(text: str) -> bool:
    """Whether `text` holds what no class name may: control characters, lone surrogates, breaks."""
    return any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def imagenet_class_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """open_clip's ImageNet names, duplicates merged: (998 names, warnings)."""
    return merge_duplicates(open_clip.IMAGENET_CLASSNAMES)


def _text_lines(path: Path, text: str) -> Iterable[tuple[int, str]]:
    return _lines(text)


def _csv_entries(path: Path, text: str) -> Iterable[tuple[int, str]]:
    return [(number, name) for number, (_, name) in _csv_rows(path, text)]


def _csv_rows(path: Path, text: str) -> Iterable[tuple[int, tuple[str, str]]]:
    """Line, folder and name of every row; a head is left out."""
    try:
        for number, row in enumerate(csv.reader(text.splitlines()), start=1):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != 2 or not row[1].strip():
                raise UsageError(
                    f"{safe_text(path.name)}, line {number}: expected a folder and the name of its "
                    "class, with a comma between"
                )
            if number > 1 or row[1].strip().lower() not in CSV_HEADS:
                yield number, (row[0].strip(), row[1].strip(" "))
    except csv.Error as error:
        raise UsageError(f"{safe_text(path.name)}: not CSV ({safe_text(error)})") from error


def _lines(text: str) -> Iterable[tuple[int, str]]:
    # not str.splitlines, which also splits at control characters that must be refused
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.removesuffix("\r").strip(" "):
            yield number, stripped


def read_folder_names(path: Path) -> dict[str, str]:
    """Class name of each folder of images, where a class list is CSV or a JSON object; else none.

    Raises:
        UsageError: unreadable, or not JSON.
    """
    if path.suffix.lower() == ".csv":
        text = read_given(path, MAX_BYTES).removeprefix("\ufeff")
        return dict(pair for _, pair in _csv_rows(path, text))
    if path.suffix.lower() != ".json":
        return {}
    data = _json(path, read_given(path, MAX_BYTES).removeprefix("\ufeff"))
    names = data.items() if isinstance(data, dict) else ()
    return {folder: name.strip(" ") for folder, name in names if isinstance(name, str)}


def _json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{safe_text(path.name)}: not JSON ({safe_text(error)})") from error


def _json_entries(path: Path, text: str) -> Iterable[tuple[int, str]]:
    data = _json(path, text)
    entries = [*data.values()] if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise UsageError(
            f"{safe_text(path.name)}: expected a JSON list of names, or an object with the name "
            "of each folder"
        )
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, str):
            raise UsageError(
                f"{safe_text(path.name)}, entry {number}: expected a name, got {safe_text(entry)}"
            )
        if entry.strip():
            yield number, entry.strip(" ")


def _require_printable(path: Path, number: int, text: str) -> None:
    if has_control_characters(text):
        raise UsageError(
            f"{safe_text(path.name)}, line {number}: control character in "
            f"{safe_text(text)!r}; remove it"
        )
