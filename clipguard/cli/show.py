"""What several commands share on the terminal: progress on stderr, devices, output folders."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.errors import ClipguardError
    from clipguard.record import AuditRecord
    from clipguard.search.roles import Progress

RECORD = "audit.json"
PATHS = (
    *("probe_data", "classnames", "templates", "vocabulary"),
    *("calibration", "reference", "text_from", "lora_base"),
)
"""Options that may be a path, by their names in Python."""


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A progress bar on stderr; one line per stage where stderr is no terminal.

    Args:
        quiet: show nothing at all.
    """
    if quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        yield from _bar()
    else:
        seen: set[str] = set()

        def line(stage: str, done: int, total: int) -> None:
            if stage not in seen:
                seen.add(stage)
                sys.stderr.write(f"{safe_text(stage)} ...\n")

        yield line


def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1)

        def step(stage: str, done: int, total: int) -> None:
            bar.update(task, description=safe_text(stage), completed=done, total=total)

        yield step


def out(text: str) -> None:
    """Print `text` and a line end. A reader who has read enough changes no exit code."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # what is left, and Python's own last flush, go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def placed(record: AuditRecord, path: Path, root: Path | None) -> AuditRecord:
    """The record with a place for its findings: that of the model, else that of the record itself.

    Args:
        record: was read from `path`.
        path: of the record.
        root: what places are told from; None for the repository that this is run in.
    """
    from clipguard.report.outputs import location_in, repository_root

    if record.location is not None:
        return record
    found = location_in(path, root or repository_root(Path()))
    return record.model_copy(update={"location": found})


def require_given(models: Sequence[Path], options: Mapping[str, object]) -> None:
    """Refuse a mistyped path before torch is imported, which takes seconds.

    Args:
        models: the checkpoints.
        options: value of each option that may be a path, by its name in Python.

    Raises:
        UsageError: nothing there; the message names the option.
    """
    from clipguard.files import require_path

    for model in models:
        require_path(model)
    for key in PATHS:
        given = options.get(key)
        if isinstance(given, Path) and not _is_name(given):
            require_path(given, f"--{key.replace('_', '-')}")


def _is_name(given: Path) -> bool:
    """Whether it may be a list or a hub's model, which whoever loads it looks up."""
    return str(given) == "imagenet" or ":" in str(given)


def records_in(path: Path) -> list[Path]:
    """The record, or all records of a folder: every `audit.json`, however deep.

    Where a folder holds none, they have other names: every JSON file that is a record.

    Raises:
        UsageError: no record in a folder.
    """
    from clipguard.errors import UsageError
    from clipguard.report.outputs import is_record

    if not path.is_dir():
        return [path]
    found = sorted(path.rglob(RECORD)) or sorted(filter(is_record, path.rglob("*.json")))
    if not found:
        raise UsageError(
            f"no {RECORD} in {safe_text(path, 400)}; give a record, or a folder that holds some"
        )
    return found


def record_at(path: Path) -> Path:
    """The record, or the only one of a folder.

    Raises:
        UsageError: no record in the folder, or more than one.
    """
    from clipguard.errors import UsageError

    found = records_in(path)
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} records in {safe_text(path, 400)}; name one, such as "
            f"{safe_text(found[0], 400)}"
        )
    return found[0]


def folder_name(path: Path) -> str:
    """A folder name made from a model's file name: letters, digits, dot, dash, underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", path.name).strip("._")[:80] or "model"


def named(model: Path, error: ClipguardError) -> str:
    """The error behind the model's name, once."""
    told = safe_text(error, 2000)
    name = f"{safe_text(model.name or model.absolute().name)}: "
    return f"{name}{told.removeprefix(name)}"
