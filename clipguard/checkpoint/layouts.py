"""What a model file holds, by its layout: zip archive, TorchScript, the old ones, safetensors.

Each layout ends in the same thing: plain values that describe tensors, and where in the file the
bytes of each storage lie. Pure Python: torch is never imported here.
"""

from __future__ import annotations

import math
import re
import struct
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

from clipguard.checkpoint.archive import Entry, read_archive
from clipguard.checkpoint.opcodes import MAX_OPCODES
from clipguard.checkpoint.safetensors_header import read_header
from clipguard.checkpoint.source import RESAVE, Source
from clipguard.checkpoint.tar import read_tar
from clipguard.checkpoint.unpickle import MAX_BYTES, Unpickled, unpickle
from clipguard.checkpoint.values import LeftOut, StorageRef, TensorRef, survey
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

TORCH_ENTRY = re.compile(
    r"data\.pkl|data/[0-9]+|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/(serialization_id|version)"
)
SCRIPT_ENTRY = re.compile(r"code/.+|constants\.pkl|constants/[0-9]+|traced_inputs(\.pkl|/[0-9]+)")
MAGIC = 0x1950A86A20F9469CFC6C
PICKLE_STARTS = (b"\x80", f"L{MAGIC}L\n.".encode())
"""Of any pickle from protocol 2 on, and of the first of the old layout in protocols 0 and 1."""
MAX_HEAD = 1000
"""Instructions in a pickle of a few numbers, such as the version of a layout."""
MAX_SIDE = 100_000
"""Instructions in a pickle beside the weights, such as the constants of a TorchScript archive."""
MAX_PARTS = 100_000
MAX_NAME = 512
LEFT_OUT = "CG110 left out what is no weight: "
SCRIPTED = (
    "CG106 a TorchScript archive: its tensors are read, its code is neither run nor looked at; "
    "whoever runs the archive itself runs that code"
)
Span = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """What a model file holds.

    Attributes:
        container: `zip`, `TorchScript`, `legacy`, `tar` or `safetensors`.
        content: plain values, and descriptions of tensors.
        spans: where the bytes of each storage begin and end in the file, by its key.
        notes: rule id and text of everything odd but not refused.
    """

    container: str
    content: object
    spans: Mapping[str, Span]
    notes: tuple[str, ...]


def read_layout(source: Source) -> Layout:
    """Find out by its content what a file is, and read everything of it but the weights.

    Raises:
        RefusedError: not a checkpoint, damaged, or more than tensors; the message starts with a
            rule id.
    """
    if source.size == 0:
        raise RefusedError("CG102 the file is empty")
    head = source.read_at(0, min(source.size, 4096))
    if _is_tar(head):  # whatever else it is: torch.load tries this before the old layout
        content, spans = read_tar(source)
        return Layout("tar", content, spans, _notes(content))
    # A real header length leaves the upper bytes empty; eight letters of text do not.
    if head[8:9] == b"{" and not any(head[5:8]):
        return _safetensors(source)
    if head.startswith(b"PK\x03\x04"):
        return _zip(source)
    if head.startswith(PICKLE_STARTS):
        return _legacy(source)
    raise RefusedError(f"CG102 {_what(head)}; expected a file of torch.save or safetensors")


def _is_tar(head: bytes) -> bool:
    """Whether Python's own reader would take the first block for that of a tar file."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "latin-1", "replace")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _what(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights: fetch the file with git lfs pull"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # a character cut in two at the end of the sample is still text
        if error.start < len(head) - 3:
            return "unknown binary content, or a file whose beginning is lost"
    return "unknown binary content" if b"\0" in head else "a text file"


def _safetensors(source: Source) -> Layout:
    source.file.seek(0)
    content: dict[str, object] = {}
    spans: dict[str, Span] = {}
    for entry in read_header(source.file, source.size):
        storage = StorageRef(entry.name, entry.dtype, math.prod(entry.shape))
        stride = _contiguous(entry.shape)
        content[entry.name] = TensorRef(storage, entry.dtype, 0, entry.shape, stride)
        spans[entry.name] = (entry.begin, entry.end)
    return Layout("safetensors", content, spans, ())


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride = [1]
    for size in shape[:0:-1]:
        stride.append(stride[-1] * size)
    return tuple(stride[::-1][-len(shape) :]) if shape else ()


def _zip(source: Source) -> Layout:
    entries = _torch_entries(read_archive(source))
    scripted = "constants.pkl" in entries or any(name.startswith("code/") for name in entries)
    for name, entry in entries.items():
        _check_entry(name, entry, scripted)
    if "data.pkl" not in entries:
        raise RefusedError("CG103 a zip archive without data.pkl is not a torch checkpoint")
    order = _bytes(source, entries, "byteorder")
    if order not in (b"", b"little"):
        raise RefusedError(f"CG103 the numbers are in {safe_text(order)} byte order; {RESAVE}")
    for name in ("constants.pkl", "traced_inputs.pkl"):
        if name in entries:
            _one_pickle(_bytes(source, entries, name), name, scripted, MAX_SIDE)
    found = _one_pickle(_bytes(source, entries, "data.pkl"), "data.pkl", scripted, MAX_OPCODES)
    spans: dict[str, Span] = {}
    for key, storage in found.storages.items():
        at = entries.get(f"data/{key}")
        if at is None or at.size != storage.size:
            raise _wrong_storage(storage, at.size if at else 0)
        spans[key] = (at.begin, at.begin + at.size)
    if scripted:
        return Layout("TorchScript", flat(found.value), spans, (SCRIPTED,))
    return Layout("zip", found.value, spans, _notes(found.value))


def _torch_entries(entries: tuple[Entry, ...]) -> dict[str, Entry]:
    roots = {entry.name.partition("/")[0] for entry in entries}
    if len(roots) != 1:
        raise RefusedError(f"CG103 expected one root folder in the archive, found {len(roots)}")
    return {entry.name.partition("/")[2]: entry for entry in entries}


def _check_entry(name: str, entry: Entry, scripted: bool) -> None:
    shown = safe_text(entry.name)
    is_script = scripted and SCRIPT_ENTRY.fullmatch(name) is not None
    if not is_script and not TORCH_ENTRY.fullmatch(name):
        what = "more than one pickle" if name.endswith(".pkl") else "an entry torch does not write"
        raise RefusedError(f"CG103 {what}: {safe_text(name)}; {RESAVE}")
    if entry.deflated and not name.startswith("code/"):  # which is never unpacked
        raise RefusedError(
            f"CG103 the archive entry {shown} is compressed; torch.save never does, "
            f"and a few bytes can unpack to many: {RESAVE}"
        )
    if not name.startswith("data/") and entry.packed > MAX_BYTES:
        raise RefusedError(f"CG104 {shown} has {entry.packed} bytes, more than {MAX_BYTES}")


def _bytes(source: Source, entries: Mapping[str, Entry], name: str) -> bytes:
    entry = entries.get(name)
    return b"" if entry is None else source.read_at(entry.begin, entry.size)


def _one_pickle(data: bytes, name: str, scripted: bool, most: int) -> Unpickled:
    file = BytesIO(data)
    found = unpickle(file, name=name, scripted=scripted, most=most)
    if file.tell() != len(data):
        raise RefusedError(f"CG103 {name} goes on after its end; something is hidden behind it")
    return found


def _wrong_storage(storage: StorageRef, size: int) -> RefusedError:
    return RefusedError(
        f"CG105 the storage {safe_text(storage.key)!r} should have {storage.size} bytes, the "
        f"file has {size}"
    )


def _legacy(source: Source) -> Layout:
    """The layout of torch before 1.6: five pickles, then for each storage its length and bytes."""
    file = BytesIO(source.read_at(0, min(source.size, MAX_BYTES)))
    if unpickle(file, name="the pickle at its start", most=MAX_HEAD).value != MAGIC:
        raise RefusedError(f"CG102 a pickle that torch.save did not write: {RESAVE}")
    version = unpickle(file, name="its version", most=MAX_HEAD)
    system = unpickle(file, name="its system", most=MAX_HEAD)
    found = unpickle(file, name="its pickle")
    most = MAX_HEAD + 4 * len(found.storages)  # a key takes two instructions
    listed = unpickle(file, name="the list of its storages", most=most)
    if version.value != 1001 or not isinstance(system.value, dict):
        raise RefusedError(f"CG103 an unknown version of the old layout; {RESAVE}")
    if system.value.get("little_endian") is not True:
        raise RefusedError(f"CG103 the numbers are not in little byte order; {RESAVE}")
    keys = _listed(listed.value, found.storages)
    position = file.tell()
    spans: dict[str, Span] = {}
    for key in keys:
        storage = found.storages[key]
        (count,) = struct.unpack("<q", source.read_at(position, 8))
        if count != storage.count:
            raise _wrong_storage(storage, count)
        spans[key] = (position + 8, position + 8 + storage.size)
        position = spans[key][1]
    if position != source.size:
        raise RefusedError("CG103 truncated, or the file goes on after its end")
    return Layout("legacy", found.value, spans, _notes(found.value))


def _listed(listed: object, storages: Mapping[str, StorageRef]) -> list[str]:
    """The keys of the storages, in the order of the file."""
    listing = listed if isinstance(listed, list) else []
    keys = [key for key in listing if isinstance(key, str)]
    if not len(listing) == len(keys) == len(storages) or set(keys) != storages.keys():
        raise RefusedError("CG103 the storages of the file are not those that its tensors need")
    return keys


def _notes(content: object) -> tuple[str, ...]:
    kinds = survey(content).left_out
    shown = ", ".join(safe_text(kind) for kind in kinds[:8])
    return (LEFT_OUT + shown,) if kinds else ()


def flat(module: object) -> dict[str, object]:
    """The tensors of a TorchScript module under the names that its state dict would have.

    Raises:
        RefusedError: more parts, levels or longer names than a model has (CG104).
    """
    found: dict[str, object] = {}
    level = [("", module)]
    parts = 0
    while level:
        below: list[tuple[str, object]] = []
        for prefix, part in level:
            for name, value in _attributes(part):
                parts += 1
                if parts > MAX_PARTS or len(prefix) + len(name) > MAX_NAME:
                    raise RefusedError("CG104 the module has more parts than a model has")
                if isinstance(value, TensorRef):
                    found[f"{prefix}{name}"] = value
                elif isinstance(value, LeftOut):
                    below.append((f"{prefix}{name}.", value))
        level = below
    return found


def _attributes(part: object) -> Iterator[tuple[str, object]]:
    """Names and values of the attributes of one module."""
    held = part.held if isinstance(part, LeftOut) else []
    if len(held) == 1 and isinstance(held[0], dict):  # what `BUILD` has put there, once
        yield from ((name, value) for name, value in held[0].items() if isinstance(name, str))
