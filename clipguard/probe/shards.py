"""Images in the tar files of WebDataset: `KEY.jpg` beside `KEY.cls` or `KEY.txt`.

Nothing is unpacked: the place of every image in the file is kept, and its bytes are read from
there. Names in a tar are only compared with one another.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from clipguard.errors import UsageError
from clipguard.probe.items import IMAGE_SUFFIXES, Item, Items
from clipguard.text_safety import safe_text

MAX_ENTRIES = 2_000_000
MAX_IMAGE = 64 * 2**20
MAX_TEXT = 2**16
MAX_HEADER = 2**20
"""Bytes of one entry's own description; a file could claim that it has any number."""


class _Entry(NamedTuple):
    """A plain file in a tar."""

    shard: Path
    key: str
    suffix: str
    start: int
    size: int

    def bytes(self) -> bytes:
        """What it holds; nothing if that can no longer be read."""
        with suppress(OSError), self.shard.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)
        return b""


class _Narrow(io.BufferedReader):
    """Refuses to read much at once: entries are skipped, so only descriptions are read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError("an entry's description is too long")
        return super().read(size)


def shard_items(shards: Sequence[Path]) -> Items:
    """The images of tar files.

    Args:
        shards: one file or more, in order.

    Raises:
        UsageError: no plain tar file, too many entries, or no image in any of them.
    """
    images: list[_Entry] = []
    words: dict[tuple[Path, str], dict[str, _Entry]] = {}
    odd = 0
    for entry in _entries(shards):
        if entry.suffix in IMAGE_SUFFIXES and entry.size <= MAX_IMAGE:
            images.append(entry)
        elif entry.suffix in (".cls", ".txt") and entry.size <= MAX_TEXT:
            words.setdefault((entry.shard, entry.key), {})[entry.suffix] = entry
        elif entry.suffix in IMAGE_SUFFIXES:
            odd += 1
    if not images:
        shown = ", ".join(safe_text(one.name) for one in shards[:3])
        raise UsageError(f"no images in {shown}; expected KEY.jpg and KEY.cls in a tar file")
    every = [words.get((one.shard, one.key), {}) for one in images]
    suffix = next((s for s in (".cls", ".txt") if any(s in beside for beside in every)), "")
    items = tuple(
        Item(_text(beside.get(suffix)), partial(_Entry.bytes, image))
        for image, beside in zip(images, every, strict=True)
    )
    told = {".cls": "index", ".txt": "caption"}.get(suffix, "nothing")
    large = (f"left out {odd} images of more than {MAX_IMAGE >> 20} MB",) if odd else ()
    return Items(items=items, told=told, warnings=large)  # type: ignore[arg-type]


def _text(entry: _Entry | None) -> str:
    return "" if entry is None else entry.bytes().decode("utf-8", "replace").strip()


def _entries(shards: Sequence[Path]) -> Iterator[_Entry]:
    left = MAX_ENTRIES
    for shard in shards:
        try:
            with (
                shard.open("rb", buffering=0) as raw,
                _Narrow(raw) as narrow,
                tarfile.open(fileobj=narrow, mode="r:") as tar,
            ):
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                    left -= 1
                    if left < 0:
                        raise UsageError(f"more than {MAX_ENTRIES:,} entries in tar files")
                    if member.isreg() and not member.issparse():
                        yield _entry(shard, member)
        except (tarfile.TarError, OSError, ValueError, ArithmeticError, RecursionError) as error:
            raise UsageError(
                f"{safe_text(shard.name)}: no plain tar file ({safe_text(error)}); unpack it, or "
                "write it again without compression"
            ) from error


def _entry(shard: Path, member: tarfile.TarInfo) -> _Entry:
    folder, _, name = member.name.rpartition("/")
    key, dot, suffix = name.partition(".")
    return _Entry(
        shard, f"{folder}/{key}", f"{dot}{suffix}".lower(), member.offset_data, member.size
    )
