"""A file's contents and weights, opened by another process and by no other. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipguard.checkpoint.contents import Contents, contents, from_json
from clipguard.checkpoint.inspection import Inspection, require_path
from clipguard.checkpoint.raw import Buffer, RawTensor, RawWeights, raw_weights, require_modest
from clipguard.checkpoint.safetensors_header import read_header
from clipguard.checkpoint.sandbox import AUTO, Guard, Reader, reader_of
from clipguard.errors import RefusedError


@contextmanager
def guarded_weights(path: Path, guard: Guard = AUTO) -> Iterator[RawWeights]:
    """As `raw_weights`, by a process with limits.

    What it sends of the tensors is checked as that of a file from outside; digest, size and notes
    are taken as it says them.

    Args:
        path: a weights file.
        guard: how to open it.

    Raises:
        UsageError: as `raw_weights`.
        RefusedError: as `raw_weights`, or the process came to a limit or died (CG104).
        BudgetSpentError: it took longer than the guard's deadline allows.
    """
    require_path(path)
    if guard.kind == "none":
        with raw_weights(path) as raw:
            yield raw
        return
    with reader_of(path, "weights", guard) as reader:
        head = reader.told()
        inspection = inspection_from(head["inspection"])
        entries = read_header(reader, int(head["size"]))
        in_order = sorted(entries, key=lambda entry: (entry.begin, entry.end))
        tensors = tuple(RawTensor(entry.name, entry.dtype, entry.shape) for entry in in_order)
        require_modest(tensors, inspection.size_bytes)
        yield RawWeights(
            inspection=inspection,
            form=str(head["form"]),
            notes=tuple(map(str, head["notes"])),
            tensors=tensors,
            data=_numbers(reader, tensors),
            sandbox=guard.kind,
            name=str(head["name"]),
        )


def guarded_contents(path: Path, guard: Guard = AUTO) -> Contents:
    """As `contents`, by a process with limits.

    Args:
        path: a weights file, or a folder with one.
        guard: how to open it.

    Raises:
        UsageError: as `contents`.
    """
    require_path(path)
    if guard.kind == "none":
        return contents(path)
    try:
        with reader_of(path, "contents", guard) as reader:
            return from_json(reader.told(), guard.kind)
    except RefusedError as error:  # it died, so nothing more can be told
        return Contents(path.name, refusal=str(error), sandbox=guard.kind)


def _numbers(reader: Reader, tensors: tuple[RawTensor, ...]) -> Iterator[Buffer]:
    for tensor in tensors:
        buffer = bytearray(tensor.size)
        reader.fill(buffer)
        yield buffer
    reader.told()  # that the file did not change


def inspection_from(told: dict[str, Any]) -> Inspection:
    """An inspection that came as JSON."""
    lists = {key: tuple(map(str, value)) for key, value in told.items() if isinstance(value, list)}
    return Inspection(**{**told, **lists, "weights_file": Path(told["weights_file"])})
