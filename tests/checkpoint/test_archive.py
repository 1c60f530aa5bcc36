"""Our view of a zip archive: large sizes, and headers that say two things."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest

from clipguard.checkpoint.archive import MAX_ENTRIES, read_archive
from clipguard.checkpoint.layouts import read_layout
from clipguard.checkpoint.source import Source
from clipguard.errors import RefusedError

FULL = 0xFFFFFFFF
EMPTY = pickle.dumps({}, 2)
Change = Callable[[bytes, bytes], tuple[bytes, bytes]]


def source(data: bytes) -> Source:
    return Source(io.BytesIO(data), len(data))


def large_entry(name: bytes, data: bytes, offset: int, later: bool) -> tuple[bytes, bytes]:
    """An entry whose sizes stand in ZIP64 fields, and its line in the directory.

    With `later` the entry's own header does not know them yet, as torch writes it.
    """
    crc, size, flags = zlib.crc32(data), len(data), 8 if later else 0
    extra = struct.pack("<HHQQ", 1, 16, size, 0 if later else size)
    known = (0, 0, 0) if later else (crc, FULL, FULL)
    header = struct.pack("<5H3L2H", 45, flags, 0, 0, 33, *known, len(name), len(extra))
    behind = b"PK\7\x08" + struct.pack("<LQQ", crc, size, size) if later else b""
    local = b"PK\3\4" + header + name + extra + data + behind
    extra = struct.pack("<HHQQQ", 1, 24, size, size, offset)
    numbers = (crc, FULL, FULL, len(name), len(extra), 0, 0, 0, 0, FULL)
    line = struct.pack("<6H3L5H2L", 45, 45, flags, 0, 0, 33, *numbers)
    return local, b"PK\1\2" + line + name + extra


def large_archive(change: Change | None = None, later: bool = False) -> bytes:
    """An archive in ZIP64 form; `change` is made to its last entry and that one's line."""
    body = directory = b""
    for name, data in ((b"m/data.pkl", EMPTY), (b"m/data/0", b"1234")):
        local, line = large_entry(name, data, len(body), later)
        if change and name == b"m/data/0":
            local, line = change(local, line)
        body, directory = body + local, directory + line
    counts = struct.pack("<4H2LH", 0, 0, 2, 2, len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + counts


@pytest.mark.parametrize("later", [False, True])
def test_large_sizes_are_read_where_they_stand(later: bool):
    data = large_archive(later=later)
    assert read_layout(source(data)).content == {}
    entry = read_archive(source(data))[1]
    assert (entry.name, data[entry.begin : entry.begin + entry.size]) == ("m/data/0", b"1234")


def test_an_entry_that_reserves_room_for_a_large_size_is_read():
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w") as archive,
        archive.open("m/data.pkl", "w", force_zip64=True) as entry,
    ):
        entry.write(EMPTY)
    assert read_layout(source(buffer.getvalue())).content == {}


NUMBER = struct.pack("<Q", 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda local, line: (local.replace(NUMBER, struct.pack("<Q", 5)), line), "two sizes"),
        (lambda local, line: (local, line.replace(NUMBER, struct.pack("<Q", 5))), "two sizes"),
        (lambda local, line: (local, line[:-8] + struct.pack("<Q", 1)), "overlap"),
        (lambda local, line: (local, line[:-8] + struct.pack("<Q", 2**63)), "CG103"),
        (lambda local, line: (local[:14] + b"\0\0\0\0" + local[18:], line), "different things"),
        (lambda local, line: (local, line[:42] + bytes(4) + line[46:]), "does not need"),
        (lambda local, line: (local.replace(b"\1\0\x10", b"\2\0\x10"), line), "fields that torch"),
        (lambda local, line: (local.replace(b"\1\0\x10", b"\1\0\x11"), line), "fields that torch"),
    ],
)  # fmt: skip
def test_two_sizes_for_one_entry_are_refused(change: Change, says: str, one_line):
    with one_line(RefusedError, says):
        read_archive(source(large_archive(change)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda local, line: (local[:-8] + struct.pack("<Q", 5), line), "says another size"),
        (lambda local, line: (local[:-24], line), "says another size"),
        (lambda local, line: (local[:14] + b"\1" + local[15:], line), "different things"),
    ],
)
def test_the_record_behind_an_entry_must_agree(change: Change, says: str, one_line):
    with one_line(RefusedError, says):
        read_archive(source(large_archive(change, later=True)))


def test_more_entries_than_a_checkpoint_has_are_refused_at_once():
    end = struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, *(MAX_ENTRIES + 1,) * 2, 0, 0)
    data = b"PK\6\6" + end + b"PK\6\7" + struct.pack("<LQL", 0, 0, 1)
    data += b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 0xFFFF, 0xFFFF, FULL, FULL, 0)
    with pytest.raises(RefusedError, match="CG104 the archive has 200001 entries"):
        read_archive(source(data))


@pytest.mark.parametrize(
    ("name", "attributes"), [("m/data/0", 0x10), ("m/data/0", 0x7B), ("m/data/0/", 0)]
)
def test_a_folder_that_has_bytes_is_refused_since_torch_reads_none_of_them(
    name: str, attributes: int
):
    def made(data: bytes) -> Source:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("m/data.pkl", EMPTY)
            entry = zipfile.ZipInfo(name)
            entry.external_attr = attributes
            archive.writestr(entry, data)
        return source(file.getvalue())

    with pytest.raises(RefusedError, match="is a folder"):
        read_archive(made(b"1234"))
    assert len(read_archive(made(b""))) == 2
