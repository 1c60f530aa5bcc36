"""Our own view of a zip archive: one directory, and nothing in the file that it does not name.

Readers of zip files disagree about where the directory is, what a name is, and where an entry
begins. What could be read in two ways is refused, so that all see what we see. Pure Python.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from clipguard.checkpoint.source import Source
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

END, END_64 = 22, 98
"""Bytes of the records at the end of an archive, of a small one and of one in ZIP64 form."""
MAX_ENTRIES = 200_000
MAX_DIRECTORY = 64 * 2**20
STORED, DEFLATED = 0, 8
ENCRYPTED, DESCRIPTOR, UTF_8 = 0x1, 0x8, 0x800
FULL = 0xFFFFFFFF
"""Stands for a size or an offset that a ZIP64 field holds."""
FOLDER = 0x10
"""Attribute of an entry: torch reads none of its bytes then, and returns what memory held."""
ZIP_64_VERSION = 45
"""Version of the format that reading an entry needs, at most."""
ZIP_64, PADDING = 0x0001, 0x4246
"""Extra fields: large sizes, and torch's own padding."""
TWO = "; two readers would see two different files"


@dataclass(frozen=True)
class Entry:
    """One entry of the archive.

    Attributes:
        name: with the root folder.
        begin: where its bytes begin in the file.
        packed: how many they are.
        size: how many they are once unpacked.
        deflated: whether they have to be unpacked.
    """

    name: str
    begin: int
    packed: int
    size: int
    deflated: bool


@dataclass(frozen=True)
class _Line:
    """One line of the directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def read_archive(source: Source) -> tuple[Entry, ...]:
    """The entries of a zip archive, in the order of the file, which they fill without a gap.

    Raises:
        RefusedError: damaged, or so made that another reader could see another file (CG103),
            or more entries or bytes than a checkpoint has (CG104).
    """
    try:
        count, length, offset = _end(source)
        if count > MAX_ENTRIES:
            raise RefusedError(f"CG104 the archive has {count} entries, more than {MAX_ENTRIES}")
        if length > MAX_DIRECTORY:
            raise RefusedError(f"CG104 the directory of the archive has {length} bytes")
        lines = list(_lines(source.read_at(offset, length), count))
        entries, position = [], 0
        for line in sorted(lines, key=lambda line: line.offset):
            if line.offset != position:
                where = "between its entries" if position else "before the archive"
                raise RefusedError(f"CG103 bytes stand {where}, or entries overlap{TWO}")
            entry, position = _entry(source, line)
            entries.append(entry)
    except struct.error as error:
        raise RefusedError("CG103 truncated or damaged archive") from error
    if position != offset:
        raise RefusedError(f"CG103 bytes stand before the directory of the archive{TWO}")
    if len({line.name for line in lines}) != len(lines):
        raise RefusedError("CG103 an archive entry stands twice")
    if sum(entry.size for entry in entries if not entry.deflated) > source.size:
        raise RefusedError("CG104 the entries claim more bytes than the file has")
    return tuple(entries)


def _end(source: Source) -> tuple[int, int, int]:
    """How many entries there are, and length and offset of the directory.

    Some readers believe the place of the directory that the end record states, others look right
    before that record, and a comment can hold a second one.
    """
    if source.size < END_64:  # one entry with its line in the directory takes more
        raise RefusedError("CG103 truncated or damaged archive")
    tail = source.read_at(source.size - END_64, END_64)
    start, end = source.size - END, tail[-END:]
    disk, directory_disk, *numbers = struct.unpack("<HHHHLL", end[4:20])
    found = tuple(numbers)
    if tail[56:60] == b"PK\6\7":
        start, small = source.size - END_64, found
        found = struct.unpack("<QQQQ", tail[24:56])
        most = (0xFFFF, 0xFFFF, FULL, FULL)
        equal = all(a in (b, m) for a, b, m in zip(small, found, most, strict=True))
        locator = struct.pack("<LQL", 0, start, 1)
        record = b"PK\6\6" + struct.pack("<Q", 44)
        honest = tail[:12] == record and not any(tail[16:24]) and tail[60:76] == locator
        if not honest or not equal:
            raise RefusedError("CG103 the archive has two end records that say different things")
    here, everywhere, length, offset = found
    if end[:4] != b"PK\5\6" or end[20:] != b"\0\0" or here != everywhere:
        raise RefusedError(
            "CG103 truncated or damaged archive, or bytes stand behind its end, where a second "
            f"directory may hide{TWO}"
        )
    if disk or directory_disk or offset + length != start:
        raise RefusedError(
            f"CG103 the archive has a second directory, or bytes stand before the archive{TWO}"
        )
    return here, length, offset


def _lines(directory: bytes, count: int) -> Iterator[_Line]:
    position = 0
    for _ in range(count):
        fields = struct.unpack_from("<4sHHHHLLLLHHHHHLL", directory, position)
        signature, _, needed, flags, method, _, crc, packed, size, *lengths = fields
        names, extra, comment, disk, _, attributes, offset = lengths
        begin = position + 46
        position = begin + names + extra + comment
        if signature != b"PK\1\2" or comment or disk or position > len(directory):
            raise RefusedError("CG103 the directory of the archive is damaged or has comments")
        name, more = directory[begin : begin + names], directory[begin + names : position]
        if needed > ZIP_64_VERSION:
            raise RefusedError(f"CG103 {_shown(name)} wants a newer reader than torch's")
        if (packed or size) and (attributes & FOLDER or name.endswith(b"/")):
            raise RefusedError(f"CG103 {_shown(name)} is a folder and has bytes{TWO}")
        large = _large(more)
        wanted = [value for value in (size, packed, offset) if value == FULL]
        if len(large) != len(wanted):
            raise RefusedError(f"CG103 {_shown(name)} has a ZIP64 field that it does not need{TWO}")
        numbers = [large.pop(0) if value == FULL else value for value in (size, packed, offset)]
        yield _Line(name, flags, method, crc, numbers[1], numbers[0], numbers[2])
    if position != len(directory):
        raise RefusedError(f"CG103 the archive lists {count} entries, its directory has more{TWO}")


def _large(extra: bytes) -> list[int]:
    """Numbers of the one ZIP64 field among the extra fields.

    Raises:
        RefusedError: other fields than torch writes, or two of a kind.
    """
    kinds: dict[int, bytes] = {}
    while extra:
        kind, length = struct.unpack_from("<HH", extra)
        if kind not in (ZIP_64, PADDING) or kind in kinds or len(extra) < 4 + length:
            raise RefusedError(f"CG103 an archive entry has fields that torch does not write{TWO}")
        kinds[kind], extra = extra[4 : 4 + length], extra[4 + length :]
    numbers = kinds.get(ZIP_64, b"")
    return list(struct.unpack(f"<{len(numbers) // 8}Q", numbers))


def _entry(source: Source, line: _Line) -> tuple[Entry, int]:
    """The entry, and where the next one begins; both headers must say the same of it."""
    shown = _shown(line.name)
    name = _checked_name(line)
    header = source.read_at(line.offset, 30)
    signature, _, flags, method, _, crc, packed, size, names, extra = struct.unpack(
        "<4sHHHLLLLHH", header
    )
    more = source.read_at(line.offset + 30, names + extra)
    found = _local_numbers(more[names:], line, (size, packed))
    later = line.flags & DESCRIPTOR and (crc, size, packed) == (0, 0, 0)
    honest = later or (crc, *found) == (line.crc, line.size, line.packed)
    same = (signature, flags, method) == (b"PK\3\4", line.flags, line.method)
    if not honest or not same or more[:names] != line.name:
        raise RefusedError(f"CG103 directory and archive say different things of {shown}{TWO}")
    begin = line.offset + 30 + names + extra
    end = begin + line.packed
    if end > source.size:
        raise RefusedError(f"CG104 the archive entry {shown} claims more bytes than the file has")
    if line.flags & DESCRIPTOR:
        end += _descriptor(source, end, line)
    return Entry(name, begin, line.packed, line.size, line.method == DEFLATED), end


def _local_numbers(extra: bytes, line: _Line, small: tuple[int, int]) -> tuple[int, int]:
    """Size and packed size as an entry's own header says them, with its ZIP64 field."""
    large = _large(extra)
    if not large:
        return small
    both = [line.size, line.packed]
    if line.flags & DESCRIPTOR and large[1:2] == [0]:  # torch does not know it yet
        both = [line.size, 0]
    if large not in ([line.offset], both, [*both, line.offset]):
        raise RefusedError(f"CG103 {_shown(line.name)} has two sizes{TWO}")
    is_both = len(large) > 1
    return (
        line.size if small[0] == FULL and is_both else small[0],
        line.packed if small[1] == FULL and is_both else small[1],
    )


def _descriptor(source: Source, end: int, line: _Line) -> int:
    """Bytes of the record behind an entry that repeats its size."""
    signature = b"PK\7\x08" + struct.pack("<L", line.crc)
    found = source.read_at(end, min(24, source.size - end))
    if found == signature + struct.pack("<QQ", line.packed, line.size):
        return 24
    if max(line.packed, line.size) < FULL and found[:16] == signature + struct.pack(
        "<LL", line.packed, line.size
    ):
        return 16
    raise RefusedError(f"CG103 the record behind {_shown(line.name)} says another size{TWO}")


def _checked_name(line: _Line) -> str:
    shown = _shown(line.name)
    try:
        name = line.name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(f"CG103 the name of the archive entry {shown} is no text") from error
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0] == "" or "\\" in name or ":" in name or not name.isprintable():
        raise RefusedError(f"CG103 the archive entry {shown} points outside the archive")
    if line.flags & ENCRYPTED:
        raise RefusedError(f"CG103 the archive entry {shown} is encrypted")
    if line.flags & ~(DESCRIPTOR | UTF_8) or line.method not in (STORED, DEFLATED):
        raise RefusedError(f"CG103 the archive entry {shown} is packed in a way torch never uses")
    if line.method == STORED and line.packed != line.size:
        raise RefusedError(f"CG104 {shown} claims {line.size} bytes and has {line.packed}")
    return name


def _shown(name: bytes) -> str:
    return safe_text(name.decode("utf-8", "backslashreplace"))
