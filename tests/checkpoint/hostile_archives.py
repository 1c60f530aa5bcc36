"""Hostile zip archives: what could be read in two ways, points elsewhere, or unpacks to much."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

from hostile import (
    BENIGN,
    FULL,
    HARMLESS,
    PAYLOAD,
    Case,
    Part,
    archive,
    changed,
    checkpoint,
    light,
    pickled,
    with_part,
)

PLAIN = checkpoint(pickled())
EVIL = checkpoint(pickled(PAYLOAD))
FIRST = BENIGN["data.pkl"]
DIRECTORY = PLAIN.index(b"PK\1\2")
ZERO = Part(b"m/data/2", b"")
BOMB = zlib.compress(bytes(2**26), 9)[2:-4]


def zip64(*numbers: int, kind: int = 1) -> bytes:
    """An extra field of large sizes."""
    return struct.pack(f"<HH{len(numbers)}Q", kind, 8 * len(numbers), *numbers)


def with_zip64_end(data: bytes, **changes: int) -> bytes:
    """`data` with the two more records of an archive in ZIP64 form at its end."""
    _, _, here, everywhere, length, offset = struct.unpack("<4H2L", data[-18:-2])
    start = len(data) - 22
    told = {"here": here, "all": everywhere, "length": length, "offset": offset}
    told |= {"record": start, "disks": 1, "size": 44, "disk": 0} | changes
    record = struct.pack("<QHHLL", told["size"], 45, 45, told["disk"], 0)
    record += struct.pack("<4Q", *(told[key] for key in ("here", "all", "length", "offset")))
    locator = struct.pack("<LQL", 0, told["record"], told["disks"])
    return data[:-22] + b"PK\6\6" + record + b"PK\6\7" + locator + data[-22:]


def deflated(name: bytes, packed: bytes, size: int, crc: int = 0) -> Part:
    told = {"method": 8, "size": size, "packed": len(packed), "crc": crc}
    return Part(name, packed, told, told)


def _ends() -> dict[str, tuple[bytes, str]]:
    hidden = EVIL[:-2] + struct.pack("<H", len(PLAIN)) + PLAIN
    small = archive(FIRST)
    return {
        "prefix-of-bytes": (b"#!/bin/sh\n" + PLAIN, "CG102"),
        "prefix-that-looks-like-an-entry": (b"PK\3\4" + PLAIN, "CG103"),
        "prefix-with-offsets-that-count-it": (archive(*BENIGN.values(), prefix=b"x"), "CG102"),
        "prefix-entry-that-is-not-listed": (
            archive(Part(b"m/data.pkl", pickled(PAYLOAD), listed=False), *BENIGN.values()),
            "CG103",
        ),
        "suffix-of-one-byte": (PLAIN + b"\0", "CG103"),
        "suffix-that-is-an-archive": (PLAIN + EVIL, "CG103"),
        "comment-that-is-an-archive": (hidden, "CG103"),
        "comment-of-nothing-that-claims-bytes": (PLAIN[:-2] + b"\1\0", "CG103"),
        "two-end-records": (PLAIN + PLAIN[-22:], "CG103"),
        "two-directories": (PLAIN[:-22] + PLAIN[DIRECTORY:], "CG103"),
        "directory-before-a-gap": (archive(*BENIGN.values(), before_directory=b"x"), "CG103"),
        "no-directory": (PLAIN[:DIRECTORY], "CG103"),
        "no-end-record": (PLAIN[:-22], "CG103"),
        "only-an-end-record": (PLAIN[-22:], "CG102"),
        "half-an-end-record": (PLAIN[:-11], "CG103"),
        "end-that-counts-one-less": (archive(*BENIGN.values(), here=4, all=4), "CG103"),
        "end-that-counts-one-more": (archive(*BENIGN.values(), here=6, all=6), "CG103"),
        "end-with-two-counts": (archive(*BENIGN.values(), here=4), "CG103"),
        "end-on-another-disk": (archive(*BENIGN.values(), disk=1), "CG103"),
        "end-with-a-directory-on-another-disk": (
            archive(*BENIGN.values(), start_disk=1),
            "CG103",
        ),
        "end-that-points-behind-the-file": (archive(*BENIGN.values(), offset=FULL - 1), "CG103"),
        "end-of-an-empty-directory": (archive(*BENIGN.values(), length=0), "CG103"),
        "no-entries": (b"PK\3\4" + bytes(100) + archive(), "CG103"),
        "two-ends-that-agree": (with_zip64_end(PLAIN), HARMLESS),
        "two-ends-with-two-offsets": (with_zip64_end(PLAIN, offset=0), "CG103"),
        "two-ends-with-two-counts": (with_zip64_end(PLAIN, here=4), "CG103"),
        "zip64-end-that-points-elsewhere": (with_zip64_end(PLAIN, record=0), "CG103"),
        "zip64-end-on-two-disks": (with_zip64_end(PLAIN, disks=2), "CG103"),
        "zip64-end-on-another-disk": (with_zip64_end(PLAIN, disk=1), "CG103"),
        "zip64-end-with-room": (with_zip64_end(PLAIN, size=45), "CG103"),
        "zip64-end-of-2-to-the-64-entries": (
            with_zip64_end(archive(FIRST, here=0xFFFF, all=0xFFFF), here=2**64 - 1, all=2**64 - 1),
            "CG104",
        ),
        "zip64-directory-of-2-to-the-63-bytes": (
            with_zip64_end(archive(FIRST, length=FULL), length=2**63),
            "CG103",
        ),
        "end-record-before-the-real-one": (small[:-22] + small[-22:] + small[-22:], "CG103"),
    }


def _headers() -> dict[str, tuple[bytes, str]]:
    evil = pickled(PAYLOAD)
    lies: dict[str, dict[str, Any]] = {
        "name": {"name": b"m/data.pk1"},
        "longer-name": {"name": b"m/data.pkl "},
        "checksum": {"crc": 1},
        "size": {"size": 1},
        "packed-size": {"packed": 1},
        "method": {"method": 8},
        "flags": {"flags": 0x800},
        "encryption": {"flags": 1},
        "extra-field": {"extra": struct.pack("<HH", 0x7075, 0)},
        "zip64-field": {"extra": zip64(len(evil), len(evil))},
        "zip64-field-of-odd-length": {"extra": struct.pack("<HH", 1, 7) + bytes(7)},
        "field-cut-off": {"extra": struct.pack("<HH", 1, 16)},
        "padding-twice": {"extra": struct.pack("<HHHH", 0x4246, 0, 0x4246, 0)},
    }
    cases = {
        f"local-header-of-another-{what}": (changed("data.pkl", local=lie), "CG103")
        for what, lie in lies.items()
    }
    lines: dict[str, tuple[dict[str, Any], str]] = {
        "another-checksum": ({"crc": 1}, "CG103"),
        "another-size": ({"size": 1}, "CG104"),
        "another-packed-size": ({"packed": 1}, "CG104"),
        "a-size-behind-the-file": ({"size": FULL - 1, "packed": FULL - 1}, "CG103"),
        "a-size-in-a-field-that-is-missing": ({"size": FULL, "packed": FULL}, "CG103"),
        "encryption": ({"flags": 1}, "CG103"),
        "strong-encryption": ({"flags": 0x41}, "CG103"),
        "a-masked-header": ({"flags": 0x2000}, "CG103"),
        "a-patch": ({"flags": 0x20}, "CG103"),
        "a-newer-version": ({"needed": 51}, "CG103"),
        "a-comment": ({"comment": 4}, "CG103"),
        "an-offset-into-another-entry": ({"offset": 1}, "CG103"),
        "an-offset-behind-the-file": ({"offset": FULL - 1}, "CG103"),
        "a-unicode-path": ({"extra": struct.pack("<HHBL", 0x7075, 5, 1, 0)}, "CG103"),
        "a-zip64-field": ({"extra": zip64(1)}, "CG103"),
        "two-zip64-fields": ({"extra": zip64(1) + zip64(2), "size": FULL}, "CG103"),
    }
    for what, (lie, rule) in lines.items():
        cases[f"directory-line-of-{what}"] = (changed("data.pkl", line=lie), rule)
    for method in (1, 6, 9, 12, 14, 93, 95, 99):
        told = {"method": method}
        cases[f"packed-by-method-{method}"] = (changed("data.pkl", local=told, line=told), "CG103")
    cases["padding-as-torch-writes-it"] = (
        changed("data/0", local={"extra": struct.pack("<HH", 0x4246, 5) + b"ZZZZZ"}),
        HARMLESS,
    )
    signature = {"signature": b"PK\3\5"}
    cases["local-header-of-another-signature"] = (changed("data/0", local=signature), "CG103")
    cases["bytes-between-entries"] = (changed("data.pkl", behind=b"x"), "CG103")
    cases["an-entry-that-no-line-names"] = (
        archive(FIRST, Part(b"m/data.pkl", evil, listed=False), *[*BENIGN.values()][1:]),
        "CG103",
    )
    return cases


def _descriptors() -> dict[str, tuple[bytes, str]]:
    size, crc, flags = len(FIRST.data), zlib.crc32(FIRST.data), {"flags": 8}
    later = {**flags, "crc": 0, "size": 0, "packed": 0}
    honest = b"PK\7\x08" + struct.pack("<LLL", crc, size, size)

    def described(behind: bytes, local: dict[str, int] = later) -> bytes:
        return changed("data.pkl", local=local, line=flags, behind=behind)

    return {
        "descriptor-that-agrees": (described(honest), HARMLESS),
        "descriptor-of-large-sizes": (
            described(b"PK\7\x08" + struct.pack("<LQQ", crc, size, size)),
            HARMLESS,
        ),
        "descriptor-missing": (described(b""), "CG103"),
        "descriptor-without-signature": (described(honest[4:]), "CG103"),
        "descriptor-of-another-size": (described(honest[:-1] + b"\1"), "CG103"),
        "descriptor-of-another-checksum": (described(honest[:4] + b"\1" + honest[5:]), "CG103"),
        "descriptor-with-bytes-behind": (described(honest + b"\0"), "CG103"),
        "descriptor-and-half-a-header": (described(honest, {**later, "size": 1}), "CG103"),
        "descriptor-that-the-flag-hides": (changed("data.pkl", behind=honest), "CG103"),
    }


def _names() -> dict[str, tuple[bytes, str]]:
    refused: dict[str, bytes] = {
        "up": b"m/../data.pkl",
        "root": b"/m/data.pkl",
        "drive": b"C:/data.pkl",
        "drive-inside": b"m/c:data",
        "backslash": b"m\\data.pkl",
        "backslash-up": b"m/..\\..\\evil",
        "nul": b"m/data.pkl\0.txt",
        "line-end": b"m/a\n::error::x",
        "escape": b"m/\x1b[2Jx",
        "turned-text": "m/\u202eslp.data".encode(),
        "no-text": b"m/\xff\xfe",
        "overlong-slash": b"m/..\xc0\xafevil",
        "half-a-pair": b"m/\xed\xa0\x80",
        "no-name": b"",
        "folder": b"m/",
        "folder-in-a-folder": b"m/data/",
        "double-slash": b"m//data.pkl",
        "dot": b"m/./data.pkl",
        "upper-case": b"m/DATA.PKL",
        "upper-case-root": b"M/data.pkl",
        "second-root": b"n/data.pkl",
        "no-root": b"data.pkl",
        "trailing-blank": b"m/data.pkl ",
        "trailing-dot": b"m/data.pkl.",
        "second-pickle": b"m/other.pkl",
        "python-file": b"m/__init__.py",
        "storage-with-a-path": b"m/data/0/../1",
        "storage-with-letters": b"m/data/0x0",
        "storage-with-arabic-digits": "m/data/\u0663".encode(),
        "storage-with-a-line-end": b"m/data/2\n",
        "composed-letter": "m/d\u00e4ta".encode(),
        "65535-letters": b"m/" + b"a" * 65533,
    }
    cases = {
        f"entry-name-{what}": (with_part(Part(name)), "CG103") for what, name in refused.items()
    }
    twice = with_part(Part(b"m/data.pkl", pickled(PAYLOAD)))
    cases["entry-twice"] = (twice, "CG103")
    cases["entry-twice-and-the-evil-one-first"] = (
        archive(Part(b"m/data.pkl", pickled(PAYLOAD)), *BENIGN.values()),
        "CG103",
    )
    flag = {"flags": 0x800}
    cases["entry-twice-by-another-flag"] = (
        with_part(Part(b"m/data.pkl", pickled(PAYLOAD), flag, flag)),
        "CG103",
    )
    cases["entry-that-no-tensor-needs"] = (with_part(Part(b"m/data/2", b"more")), HARMLESS)
    cases["entry-of-text-flagged-so"] = (changed("data/0", local=flag, line=flag), HARMLESS)
    return cases


def _sizes() -> dict[str, tuple[bytes, str]]:
    without = {name: part for name, part in BENIGN.items() if name != "data.pkl"}
    torch_bomb = deflated(b"m/data/0", BOMB, 2**26, zlib.crc32(bytes(2**26)))
    overlap = {"offset": len(archive(*[*BENIGN.values()][:2])) - 22 - 2 * 46}
    return {
        "bomb-as-a-storage": (archive(*{**BENIGN, "data/0": torch_bomb}.values()), "CG103"),
        "bomb-as-the-pickle": (
            archive(deflated(b"m/data.pkl", BOMB, 2**26), *without.values()),
            "CG103",
        ),
        "bomb-as-version": (
            archive(*{**BENIGN, "version": deflated(b"m/version", BOMB, 2**26)}.values()),
            "CG103",
        ),
        "bomb-of-2-to-the-60-bytes": (with_part(_claims(2**60)), "CG103"),
        "pickle-missing": (archive(*without.values()), "CG103"),
        "pickle-empty": (changed("data.pkl", data=b""), "CG103"),
        "storage-missing": (
            archive(*(part for name, part in BENIGN.items() if name != "data/1")),
            "CG105",
        ),
        "storage-short": (changed("data/1", data=bytes(7)), "CG105"),
        "storage-long": (changed("data/1", data=bytes(9)), "CG105"),
        "entries-that-share-bytes": (changed("data/1", line=overlap), "CG103"),
        "byte-order-big": (changed("byteorder", data=b"big"), "CG103"),
        "byte-order-with-a-line-end": (changed("byteorder", data=b"little\n"), "CG103"),
        "byte-order-of-many-bytes": (changed("byteorder", data=b"\x1b]0;x\a" * 999), "CG103"),
    }


def _claims(size: int) -> Part:
    told = {"method": 8, "size": FULL, "packed": 2, "extra": zip64(size), "needed": 45}
    local = {**told, "extra": zip64(size, 2), "packed": FULL}
    return Part(b"m/data/2", b"\3\0", {**local, "crc": 0}, {**told, "crc": 0})


def _heavy() -> dict[str, tuple[Callable[[], bytes], str]]:
    def entries() -> bytes:
        return with_part(*(Part(f"m/data/{i}".encode()) for i in range(2, 65_000)))

    def names() -> bytes:
        return with_part(*(Part(f"m/{i:04}".encode() + b"a" * 60_000) for i in range(300)))

    return {
        "65-thousand-empty-entries": (entries, HARMLESS),
        "18-megabytes-of-names": (names, "CG103"),
        "version-of-65-megabytes": (lambda: changed("version", data=bytes(65 * 2**20)), "CG104"),
    }


def cases() -> list[Case]:
    """Every hostile archive."""
    told = {**_ends(), **_headers(), **_descriptors(), **_names(), **_sizes()}
    found = [light(f"zip-{name}", *case) for name, case in told.items()]
    return found + [Case(f"zip-{name}", *case, is_heavy=True) for name, case in _heavy().items()]
