"""The layout of torch before 0.1.10: a tar file of pickles, with the bytes of storages in between.

As for zip archives, the view is our own and strict: plain files under the four names that torch
wrote, each once, and zeros behind them. Pure Python.
"""

from __future__ import annotations

import re
import struct
from io import BytesIO

from clipguard.checkpoint.allowlist import STORAGES
from clipguard.checkpoint.source import RESAVE, Source
from clipguard.checkpoint.unpickle import MAX_BYTES, unpickle
from clipguard.checkpoint.values import ALL_BYTES, MAX_DIMENSIONS, Name, StorageRef, TensorRef
from clipguard.errors import RefusedError

Span = tuple[int, int]
BLOCK = 512
NAMES = {"sys_info", "pickle", "tensors", "storages"}
MAX_ENTRIES = 16
MAX_STORAGES = 100_000
WINDOW = 1024
"""Bytes that the description of one storage can take."""
MAX_STEPS = 100
"""Instructions in a pickle of a few numbers and names."""
_SIZE = re.compile(rb"[0-7]{11}[\0 ]")
_TIMES = re.compile(rb"(\d+ [mac]time=[0-9.]+\n)+")


def read_tar(source: Source) -> tuple[object, dict[str, Span]]:
    """What a tar file of torch holds, and where the bytes of its storages lie.

    Raises:
        RefusedError: damaged, or with more in it than torch wrote; starts with a rule id.
    """
    entries = _entries(source)
    if entries.keys() != NAMES:
        raise _unknown("entries missing")
    system = unpickle(_whole(source, entries["sys_info"]), name="sys_info", most=MAX_STEPS).value
    if not isinstance(system, dict) or system.get("protocol_version") != 1000:
        raise _unknown("another version")
    if system.get("little_endian") is not True:
        raise _unknown("numbers in another byte order")
    storages, spans = _storages(source, entries["storages"])
    tensors = _tensors(_whole(source, entries["tensors"]), storages)
    if storages.keys() & tensors.keys():
        raise _unknown("one number for two things")
    file = _whole(source, entries["pickle"])
    found = unpickle(file, name="pickle", known={**storages, **tensors})
    _require_end(file)
    if found.storages:
        raise _unknown("storages in its pickle")
    return found.value, spans


def _unknown(what: str) -> RefusedError:
    return RefusedError(f"CG103 a tar file that torch did not write, with {what}; {RESAVE}")


def _entries(source: Source) -> dict[str, Span]:
    """Name to place of every file in the archive, which ends with zeros."""
    found: dict[str, Span] = {}
    position = 0
    for _ in range(MAX_ENTRIES):
        header = source.read_at(position, BLOCK)
        if not any(header):
            break
        size = _size(header)
        begin, end = position + BLOCK, position + BLOCK + size
        position = begin + -(-size // BLOCK) * BLOCK
        if any(source.read_at(end, position - end)):
            raise _unknown("bytes between its entries")
        if header[156:157] == b"x":
            # torch wrote times with fractions; a size or a path here would say another thing
            if size > BLOCK or not _TIMES.fullmatch(source.read_at(begin, size)):
                raise _unknown("second headers")
            continue
        name = header[:100].rstrip(b"\0").decode("latin-1")
        if header[156:157] != b"0" or name not in NAMES or name in found:
            raise _unknown("another entry, or one twice")
        found[name] = (begin, end)
    else:
        raise _unknown("more entries than four")
    if source.size - position > 2 * 10240 or any(source.read_at(position, source.size - position)):
        raise _unknown("bytes behind its end")
    return found


def _size(header: bytes) -> int:
    """Bytes of an entry, if its header is whole and has no other way to say so."""
    told = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    checked = re.fullmatch(rb"([0-7]{6})\0 ", header[148:156])
    plain = header[257:265] == b"ustar\x0000" and not any(header[157:257] + header[345:])
    if not checked or int(checked[1], 8) != told or not plain or not _SIZE.match(header, 124):
        raise _unknown("a damaged header, a link or a large size")
    return int(header[124:135], 8)


def _whole(source: Source, span: Span) -> BytesIO:
    begin, end = span
    if end - begin > MAX_BYTES:
        raise RefusedError(f"CG104 an entry of the tar file has more than {MAX_BYTES} bytes")
    return BytesIO(source.read_at(begin, end - begin))


def _require_end(file: BytesIO) -> None:
    if file.read(1):
        raise _unknown("an entry that goes on after its end")


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_STORAGES:
        raise _unknown("an impossible number of parts")
    return value


class _Steps:
    """Reads small pickles from an entry that may be too large to be read whole."""

    def __init__(self, source: Source, span: Span) -> None:
        self._source = source
        self.position, self.end = span

    def value(self) -> object:
        """What the next pickle says."""
        length = max(0, min(WINDOW, self.end - self.position))
        window = BytesIO(self._source.read_at(self.position, length))
        found = unpickle(window, name="storages", most=MAX_STEPS).value
        self.position += window.tell()
        return found

    def numbers(self, dtype: str) -> tuple[int, Span]:
        """How many numbers a storage has, and where their bytes lie."""
        (count,) = struct.unpack("<q", self._source.read_at(self.position, 8))
        begin = self.position + 8
        self.position = begin + count * ALL_BYTES[dtype]
        if count < 0 or self.position > self.end:
            raise RefusedError("CG105 a storage reaches outside its entry in the tar file")
        return count, (begin, self.position)


def _storages(source: Source, span: Span) -> tuple[dict[str, StorageRef], dict[str, Span]]:
    """By their numbers: what the storages are, and where their bytes lie."""
    steps = _Steps(source, span)
    storages: dict[str, StorageRef] = {}
    spans: dict[str, Span] = {}
    for _ in range(_count(steps.value())):
        match steps.value():
            case (int() as number, str(), Name(kind)) if STORAGES.get(kind) in ALL_BYTES:
                key, dtype = str(number), STORAGES[kind]
            case _:
                raise _unknown("something else than a storage")
        if key in spans:
            raise _unknown("a storage twice")
        count, spans[key] = steps.numbers(dtype)
        storages[key] = StorageRef(key, dtype, count)
    if steps.value() != [] or steps.position != steps.end:
        raise _unknown("storages within storages, or bytes behind them")
    return storages, spans


def _tensors(file: BytesIO, storages: dict[str, StorageRef]) -> dict[str, TensorRef]:
    """By their numbers: what the tensors are."""
    found: dict[str, TensorRef] = {}
    for _ in range(_count(unpickle(file, name="tensors", most=MAX_STEPS).value)):
        match unpickle(file, name="tensors", most=MAX_STEPS).value:
            case (int() as key, int() as storage, Name()) if str(key) not in found:
                known = storages.get(str(storage))
            case _:
                known = None
        if known is None:
            raise _unknown("something else than a tensor")
        found[str(key)] = _tensor(file, known)
    _require_end(file)
    return found


def _tensor(file: BytesIO, storage: StorageRef) -> TensorRef:
    try:
        (dimensions, _) = struct.unpack("<iI", file.read(8))
        if not 0 <= dimensions <= MAX_DIMENSIONS:
            raise RefusedError("CG105 a tensor has an impossible number of dimensions")
        numbers = struct.unpack(f"<{2 * dimensions + 1}q", file.read(16 * dimensions + 8))
    except struct.error as error:
        raise _unknown("an entry cut off") from error
    if min(numbers) < 0:
        raise RefusedError("CG105 a tensor has a size or an offset below zero")
    shape, stride = numbers[:dimensions], numbers[dimensions:-1]
    tensor = TensorRef(storage, storage.dtype, numbers[-1], shape, stride)
    tensor.check()
    return tensor
