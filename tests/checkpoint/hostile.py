"""What the hostile checkpoints of the tests are made of: a benign one, taken apart.

Each case changes one thing of a file that loads, so that nothing else can be what refuses it. A
payload would make a file `code-was-run` in the current folder if an unpickler ran it.
"""

from __future__ import annotations

import pickle
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FULL = 0xFFFFFFFF
MARKER = "code-was-run"
HARMLESS = ""
WEIGHTS: Mapping[str, Tensor] = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor([7.0, 8.0]),
}
"""What the benign file holds, and every file of a harmless case."""
NUMBERS = (struct.pack("<6f", *range(6)), struct.pack("<2f", 7, 8))


@dataclass(frozen=True)
class Case:
    """A file that a stranger could send.

    Attributes:
        name: what was done to it.
        make: makes its bytes.
        rule: id of the rule that refuses it, or `HARMLESS`: it still holds `WEIGHTS`.
        is_heavy: whether it goes for memory or time.
    """

    name: str
    make: Callable[[], bytes]
    rule: str
    is_heavy: bool = False

    @property
    def data(self) -> bytes:
        """The file; made when it is asked for, because some are large."""
        return self.make()


def light(name: str, data: bytes, rule: str) -> Case:
    """A case of a small file."""
    return Case(name, lambda: data, rule)


def text(value: str) -> bytes:
    """The instruction that pushes `value`."""
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def number(value: int) -> bytes:
    """The instruction that pushes `value`, however large."""
    return pickle.dumps(value, 2)[2:-1]


def named(name: str) -> bytes:
    """The instruction that pushes the function or class `name`."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(function: str, *arguments: bytes) -> bytes:
    """The instructions that call `function`."""
    return named(function) + b"(" + b"".join(arguments) + b"tR"


def sizes(*values: int) -> bytes:
    """A tuple of numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 6, kind: str = "torch.FloatStorage") -> bytes:
    """The persistent id of the bytes of a tensor."""
    place = text(key) + text("cpu") + number(count)
    return b"(" + text("storage") + named(kind) + place + b"tQ"


def tensor(where: bytes, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A tensor over a storage."""
    hooks = named("collections.OrderedDict") + b")R"
    return call(
        "torch._utils._rebuild_tensor_v2",
        *(where, number(offset), sizes(*shape), sizes(*stride), b"\x89", hooks),
    )


A, B = tensor(storage(), (2, 3), (3, 1)), tensor(storage("1", 2), (2,), (1,))
STATE = b"}(" + text("a") + A + text("b") + B + b"u"
PAYLOAD = call("posix.mkdir", text(MARKER))


def pickled(extra: bytes = b"N", state: bytes = STATE, protocol: int = 2) -> bytes:
    """A training checkpoint: the weights, and beside them what `extra` makes."""
    start = b"\x80" + bytes([protocol]) + b"}("
    return start + text("state_dict") + state + text("extra") + extra + b"u."


@dataclass(frozen=True)
class Part:
    """An entry of an archive, of which each header may lie.

    Attributes:
        name: with the root folder.
        data: its bytes.
        local: fields of its own header that are not what they should be.
        line: the same for its line in the directory.
        behind: bytes between it and the next entry.
        listed: whether it has a line in the directory.
    """

    name: bytes
    data: bytes = b""
    local: Mapping[str, Any] = field(default_factory=dict)
    line: Mapping[str, Any] = field(default_factory=dict)
    behind: bytes = b""
    listed: bool = True


def _told(part: Part, changes: Mapping[str, Any]) -> dict[str, Any]:
    crc, size = zlib.crc32(part.data), len(part.data)
    honest = {"crc": crc, "packed": size, "size": size, "name": part.name, "extra": b""}
    return {"needed": 20, "flags": 0, "method": 0, **honest, **changes}


def _header(told: Mapping[str, Any]) -> bytes:
    fields = [told[key] for key in ("needed", "flags", "method")]
    sums = [told[key] for key in ("crc", "packed", "size")]
    lengths = (len(told["name"]), len(told["extra"]))
    return struct.pack("<3HHH3L2H", *fields, 0, 33, *sums, *lengths)


def archive(*parts: Part, prefix: bytes = b"", before_directory: bytes = b"", **end: int) -> bytes:
    """A zip archive; `end` holds fields of its last record that are not what they should be."""
    body, directory = bytearray(prefix), bytearray()
    for part in parts:
        told = _told(part, part.line)
        extra, offset = told["extra"], told.get("offset", len(body))
        if part.listed:
            numbers = struct.pack("<HHHLL", told.get("comment", 0), 0, 0, 0, offset)
            directory += b"PK\1\2\x14\0" + _header(told) + numbers + told["name"] + extra
        told = _told(part, part.local)
        body += told.get("signature", b"PK\3\4") + _header(told) + told["name"] + told["extra"]
        body += part.data + part.behind
    body += before_directory
    count = sum(part.listed for part in parts)
    honest = {"here": count, "all": count, "length": len(directory), "offset": len(body)}
    told_end = {"disk": 0, "start_disk": 0, **honest, "comment": 0, **end}
    return bytes(body + directory) + b"PK\5\6" + struct.pack("<4H2LH", *told_end.values())


def parts(data: bytes) -> dict[str, Part]:
    """The entries of a checkpoint whose pickle is `data`, by their names without the root."""
    content = {"data.pkl": data, "byteorder": b"little", "data/0": NUMBERS[0]}
    content |= {"data/1": NUMBERS[1], "version": b"3\n"}
    return {name: Part(f"m/{name}".encode(), raw) for name, raw in content.items()}


BENIGN = parts(pickled())


def checkpoint(data: bytes) -> bytes:
    """A file of torch.save whose pickle is `data`."""
    return archive(*parts(data).values())


def changed(name: str, **fields: object) -> bytes:
    """The benign checkpoint with one entry that is not what it should be."""
    part = BENIGN[name]
    told = {"name": part.name, "data": part.data, **fields}
    return archive(*{**BENIGN, name: Part(**told)}.values())


def with_part(*more: Part) -> bytes:
    """The benign checkpoint with more entries."""
    return archive(*BENIGN.values(), *more)
