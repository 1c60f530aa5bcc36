"""A file's contents and weights, parsed by another process and by no other. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clipguard.checkpoint.contents import Contents, contents, contents_of
from clipguard.checkpoint.inspection import Inspection, naming
from clipguard.checkpoint.raw import Buffer, RawTensor, RawWeights, raw_weights, require_modest
from clipguard.checkpoint.reply import read_contents, read_head, require_weights
from clipguard.checkpoint.safetensors_header import read_header
from clipguard.checkpoint.sandbox import AUTO, Guard, Reader, reader_of
from clipguard.checkpoint.source import CHANGED, hashing, opened
from clipguard.errors import RefusedError
from clipguard.files import require_path
from clipguard.text_safety import safe_text


@contextmanager
def guarded_weights(path: Path, guard: Guard = AUTO) -> Iterator[RawWeights]:
    """As `raw_weights`, by a process with limits.

    What it says is checked as a file from outside is. Size and digest are our own: the file is
    opened here, hashed here while that process reads it, and never opened again.

    Args:
        path: a weights file.
        guard: how to open it.

    Raises:
        UsageError: as `raw_weights`.
        RefusedError: as `raw_weights`, or the process came to a limit, died, or says what it may
            not (CG104).
        BudgetSpentError: it took longer than the guard's deadline allows.
    """
    require_path(path)
    if guard.kind == "none":
        with raw_weights(path) as raw:
            yield raw
        return
    with (
        opened(path) as source,
        hashing(source) as digest,
        naming(path),
        reader_of(source, path, "weights", guard) as reader,
    ):
        head = read_head(reader.told())
        entries = read_header(reader, head.size)
        in_order = sorted(entries, key=lambda entry: (entry.begin, entry.end))
        tensors = tuple(RawTensor(entry.name, entry.dtype, entry.shape) for entry in in_order)
        require_weights(tensors)
        require_modest(tensors, source.size)
        known = Inspection(head.container, head.seen, digest(), source.size, path)
        if head.sha256 != known.sha256:
            raise RefusedError(CHANGED)
        yield RawWeights(
            inspection=known,
            form=head.form,
            notes=head.notes,
            tensors=tensors,
            data=_numbers(reader, tensors),
            sandbox=guard.kind,
            name=head.name,
        )


def guarded_contents(path: Path, guard: Guard = AUTO) -> Contents:
    """As `contents`, by a process with limits for each file.

    Args:
        path: a weights file, an index of several, or a folder.
        guard: how to open them.

    Raises:
        UsageError: as `contents`.
    """
    require_path(path)
    return replace(contents(path, lambda file: guarded_file(file, guard)), sandbox=guard.kind)


def guarded_file(path: Path, guard: Guard = AUTO) -> Contents:
    """What is in one weights file, whatever its tensors are called; size and digest are our own."""
    if guard.kind == "none":
        return contents_of(path)
    shown = safe_text(path.name)
    try:
        with opened(path) as source, hashing(source) as digest:
            try:
                with naming(path), reader_of(source, path, "contents", guard) as reader:
                    found = read_contents(reader.told())
            except RefusedError as error:  # it died, so nothing more can be told
                found = Contents("", refusal=str(error))
            name = path.name if found.container else shown
            return replace(found, weights_file=name, size_bytes=source.size, sha256=digest())
    except RefusedError as error:  # no plain file, or it changed
        return Contents(shown, refusal=str(error))


def _numbers(reader: Reader, tensors: tuple[RawTensor, ...]) -> Iterator[Buffer]:
    for tensor in tensors:
        buffer = bytearray(tensor.size)
        reader.fill(buffer)
        yield buffer
    reader.told()  # that the file did not change
