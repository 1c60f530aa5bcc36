"""A model file, opened once: what is checked and what is read come from one descriptor."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clipguard.errors import RefusedError, UsageError
from clipguard.text_safety import safe_text

BLOCK = 2**20
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
RESAVE = "re-save it with a current torch.save or as safetensors"
CHANGED = "CG103 the file changed while it was being read; try again"


@dataclass(frozen=True)
class Source:
    """An open model file.

    Attributes:
        file: the one descriptor.
        size: bytes in the file when it was opened.
    """

    file: BinaryIO
    size: int

    def read_at(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`.

        Raises:
            RefusedError: they are not all in the file.
        """
        if not 0 <= offset <= offset + count <= self.size:
            raise RefusedError("CG103 truncated or damaged: it points outside the file")
        self.file.seek(offset)
        data = self.file.read(count)
        if len(data) != count:
            raise RefusedError(CHANGED)
        return data

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of all bytes."""
        for _ in (steps := self.spans([])):
            pass
        return steps.sha256

    def spans(self, wanted: Sequence[tuple[int, int]]) -> SpanReader:
        """Read the file once from its beginning to its end, see `SpanReader`."""
        return SpanReader(self, sorted(wanted))


class SpanReader:
    """Reads a file once, in order: gives the bytes of some spans, and hashes all.

    Iterating gives one buffer for each span, a (begin, end) pair in bytes, in the order of the
    file. Afterwards `sha256` is the digest of the whole file, over the very bytes it gave.
    """

    def __init__(self, source: Source, spans: Sequence[tuple[int, int]]) -> None:
        self._source = source
        self._spans = spans
        self._digest = hashlib.sha256()
        self.sha256 = ""

    def __iter__(self) -> Iterator[bytearray]:
        """See the class.

        Raises:
            RefusedError: the file is shorter than it was.
        """
        self._source.file.seek(0)
        position = 0
        for begin, end in self._spans:
            self._skip(begin - position)
            buffer = bytearray(end - begin)
            if self._source.file.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
                raise RefusedError(CHANGED)
            self._digest.update(buffer)
            yield buffer
            position = end
        self._skip(self._source.size - position)
        if self._source.file.read(1):
            raise RefusedError(CHANGED)
        self.sha256 = self._digest.hexdigest()

    def _skip(self, count: int) -> None:
        while count > 0:
            block = self._source.file.read(min(BLOCK, count))
            if not block:
                raise RefusedError(CHANGED)
            self._digest.update(block)
            count -= len(block)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a model file for the only time.

    Raises:
        UsageError: it is not there, or may not be read.
        RefusedError: it is no plain file, so that its size says nothing.
    """
    with ExitStack() as stack:
        try:  # without waiting: a pipe that nobody writes to would never open
            file = stack.enter_context(
                open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_WAIT))
            )
        except OSError as error:
            shown = safe_text(path, 400)
            raise UsageError(f"cannot read {shown}: {error.strerror}; check the path") from error
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise RefusedError("CG102 not a plain file")
        yield Source(file, state.st_size)


@contextmanager
def hashing(source: Source) -> Iterator[Callable[[], str]]:
    """Hash a file in a thread, while another process reads it through the same descriptor.

    Gives what waits for the thread and returns the hexadecimal SHA-256 of all bytes; that raises
    `RefusedError` if they are not as many as they were when the file was opened.
    """
    found: list[str] = []
    stopped = threading.Event()

    def run() -> None:
        digest, position = hashlib.sha256(), 0
        try:  # `pread` leaves the position alone, which belongs to the other process
            while not stopped.is_set() and (
                block := os.pread(source.file.fileno(), BLOCK, position)
            ):
                digest.update(block)
                position += len(block)
        except OSError:
            return
        if position == source.size:
            found.append(digest.hexdigest())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> str:
        thread.join()
        if not found:
            raise RefusedError(CHANGED)
        return found[0]

    try:
        yield result
    finally:
        stopped.set()
        thread.join()
