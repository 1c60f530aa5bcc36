"""A tar file as torch before 0.1.10 wrote it, put together by hand."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import tarfile

import torch

SYSTEM = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"int": 4}}
FLOATS = struct.pack("<6f", *range(6))


class Number(str):
    """A tensor in the pickle, by its number."""


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> str | None:
        return str(value) if type(value) is Number else None


def pickled(*values: object) -> bytes:
    buffer = io.BytesIO()
    for value in values:
        _Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def storage(key: int, kind: type, data: bytes, count: int) -> bytes:
    return pickled((key, "cpu", kind)) + struct.pack("<q", count) + data


def tensor(key: int, where: object, *numbers: int, dimensions: int | None = None) -> bytes:
    known = (len(numbers) - 1) // 2 if dimensions is None else dimensions
    return pickled((key, where, torch.FloatStorage)) + struct.pack(
        f"<iI{len(numbers)}q", known, 0, *numbers
    )


CONTENT = collections.OrderedDict((name, Number(10 + i)) for i, name in enumerate("abc"))
HALVES = storage(2, torch.HalfStorage, struct.pack("<2e", 1, 1), 2)
STORAGES = storage(1, torch.FloatStorage, FLOATS, 6) + HALVES
TENSORS = [tensor(10, 1, 2, 3, 3, 1, 0), tensor(11, 1, 3, 1, 2), tensor(12, 2, 2, 1, 0)]
PARTS = {
    "sys_info": pickled(SYSTEM),
    "pickle": pickled(CONTENT),
    "tensors": pickled(3) + b"".join(TENSORS),
    "storages": pickled(2) + STORAGES + pickled([]),
}


def tar(parts: dict[str, bytes] = PARTS, form: int = tarfile.PAX_FORMAT, **fields: object) -> bytes:
    """The archive as old torch made it: with the times of the files in a second header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=form) as file:
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1488326400.25
            for field, value in fields.items():
                setattr(member, field, value)
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
