"""Look at a model file before anything loads it. Pure Python: torch is never imported here."""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from clipguard.checkpoint.pickle_scan import MAX_BYTES, scan_pickle
from clipguard.checkpoint.safetensors_header import check_header
from clipguard.errors import RefusedError, UsageError
from clipguard.text_safety import safe_text

PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "model.pt",
)
SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt"})
TORCH_ENTRY = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id"
)
END, END_64 = 22, 98
"""Bytes of the records at the end of an archive, of a small one and of one in ZIP64 form."""
RESAVE = "re-save it with a current torch.save or as safetensors"


@dataclass(frozen=True)
class Inspection:
    """What the static pass saw; a file that is refused has none.

    Attributes:
        container: `zip`, `safetensors`, or `folder, ...` with one of them.
        notes: rule id and text of everything odd but not refused.
        sha256: digest of the weights file.
        size_bytes: its size.
        weights_file: the file that holds the weights.
    """

    container: str
    notes: tuple[str, ...]
    sha256: str
    size_bytes: int
    weights_file: Path


def require_path(path: Path) -> None:
    """Stop before anything else is touched if `path` was mistyped.

    Raises:
        UsageError: nothing there.
    """
    if not path.is_dir() and not path.is_file():
        raise UsageError(f"no file or folder at {safe_text(path)}; check the path")


def inspect_file(path: Path) -> Inspection:
    """Find out what `path` is by its content, and refuse it if loading it could do harm.

    Args:
        path: a weights file, or a folder with one.

    Raises:
        UsageError: nothing there, or a folder without one clear weights file.
        RefusedError: not a checkpoint, damaged, or more than tensors; the message starts with
            the file's name and a rule id.
    """
    weights = _weights_in(path) if path.is_dir() else path
    require_path(weights)
    container = _container(weights)
    notes = _beside(weights) if path.is_dir() else []
    if (weights.suffix.lower() == ".safetensors") != (container == "safetensors"):
        if weights.suffix.lower() == ".safetensors":
            notes.append(f"CG102 named .safetensors, but the content is {container}")
        else:
            notes.append(f"CG102 safetensors content in a file named {safe_text(weights.suffix)}")
    return Inspection(
        container=f"folder, {container}" if path.is_dir() else container,
        notes=tuple(notes),
        sha256=sha256_of(weights),
        size_bytes=weights.stat().st_size,
        weights_file=weights,
    )


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _weights_in(folder: Path) -> Path:
    for name in PREFERRED:
        if (folder / name).is_file():
            return folder / name
    found = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix.lower() in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(safe_text(f.name) for f in found[:8]) or "none"
        raise UsageError(
            f"expected one weights file in {safe_text(folder)}, found {names}; "
            "give the path of the weights file itself"
        )
    return found[0]


def _beside(weights: Path) -> list[str]:
    """Refuse a folder for other weights that a loader may prefer; a note on what was not read."""
    others = [f for f in sorted(weights.parent.iterdir()) if f.is_file() and f != weights]
    loaded = [f for f in others if f.suffix.lower() in SUFFIXES | {".py"}]
    for file in loaded:
        if "model" in file.name and file.suffix != ".py":
            _container(file)
    names = ", ".join(safe_text(file.name) for file in loaded[:8])
    if not names:
        return []
    return [f"CG110 the folder also holds {names}; only {safe_text(weights.name)} was read"]


def _container(path: Path) -> str:
    try:
        return _checked(path)
    except RefusedError as error:
        raise RefusedError(f"{safe_text(path.name)}: {error}") from error


def _checked(path: Path) -> str:
    size = path.stat().st_size
    if size == 0:
        raise RefusedError("CG102 the file is empty")
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(0)
        # A real header length leaves the upper bytes empty; eight letters of text do not.
        if head[8:9] == b"{" and not any(head[5:8]):
            check_header(file, size)
            return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path, size)
        return "zip"
    raise RefusedError(f"CG102 {_what(head)}; expected a torch.save archive or safetensors")


def _what(head: bytes) -> str:
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return f"a legacy pickle, which can only be read by running it: {RESAVE}"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights: fetch the file with git lfs pull"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # a character cut in two at the end of the sample is still text
        if error.start < len(head) - 3:
            return "unknown binary content, or a file whose beginning is lost"
    return "unknown binary content" if b"\0" in head else "a text file"


def _check_archive(path: Path, size: int) -> None:
    stated = _check_end(path, size)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) != stated:
                raise RefusedError(f"CG103 the archive lists {len(entries)} of {stated} entries")
            root = _check_entries(entries, size)
            for entry in entries:
                archive.open(entry).close()  # local and central header must name the same entry
            pickled = archive.read(f"{root}/data.pkl")
    except RefusedError:
        raise
    except Exception as error:  # hostile bytes: zipfile raises a dozen types
        raise RefusedError(f"CG103 truncated or damaged archive: {safe_text(error)}") from error
    scan_pickle(pickled)


def _check_end(path: Path, size: int) -> int:
    """How many entries the archive says it has, if all readers look for them in one place.

    Some readers believe the place of the directory that the end record states, others look right
    before that record, and a comment can hold a second one.
    """
    with path.open("rb") as file:
        file.seek(max(0, size - END_64))
        tail = file.read()
    if size < END_64:  # one entry with its line in the directory takes more
        raise RefusedError("CG103 truncated or damaged archive")
    start, end = size - END, tail[-END:]
    found = struct.unpack("<HHLL", end[8:20])
    if tail[56:60] == b"PK\6\7":
        start, small = size - END_64, found
        found = struct.unpack("<QQQQ", tail[24:56])
        most = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        equal = all(a in (b, m) for a, b, m in zip(small, found, most, strict=True))
        if tail[:4] != b"PK\6\6" or tail[64:72] != struct.pack("<Q", start) or not equal:
            raise RefusedError("CG103 the archive has two end records that say different things")
    here, everywhere, length, offset = found
    if end[:4] != b"PK\5\6" or end[20:] != b"\0\0" or here != everywhere:
        raise RefusedError(
            "CG103 truncated or damaged archive, or bytes stand behind its end, where a second "
            "directory may hide: two readers would see two different files"
        )
    if offset + length != start:
        raise RefusedError(
            "CG103 the archive has a second directory, or bytes stand before the archive; two "
            "readers would see two different files"
        )
    return int(here)


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> str:
    names = [entry.orig_filename for entry in entries]
    for entry in entries:
        _check_entry(entry)
    if len(set(names)) != len(names):
        raise RefusedError("CG103 an archive entry stands twice")
    if sum(entry.file_size for entry in entries) > size:
        raise RefusedError("CG104 the entries claim more bytes than the file has")
    if min((entry.header_offset for entry in entries), default=0) != 0:
        raise RefusedError("CG103 bytes stand before the archive; something may be hidden there")
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1:
        raise RefusedError(f"CG103 expected one root folder in the archive, found {len(roots)}")
    root = roots.pop()
    inner = [name[len(root) + 1 :] for name in names]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        raise RefusedError(
            "CG106 TorchScript: the archive holds code; convert it in a sandbox by saving "
            "model.state_dict() with torch.save"
        )
    odd = [name for name in inner if not TORCH_ENTRY.fullmatch(name)]
    if odd:
        what = (
            "more than one pickle" if odd[0].endswith(".pkl") else "an entry torch does not write"
        )
        raise RefusedError(f"CG103 {what}: {safe_text(odd[0])}; {RESAVE}")
    if "data.pkl" not in inner:
        raise RefusedError("CG103 a zip archive without data.pkl is not a torch checkpoint")
    return root


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name, shown = entry.orig_filename, safe_text(entry.orig_filename)
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0] == "" or "\\" in name or ":" in name or not name.isprintable():
        raise RefusedError(f"CG103 the archive entry {shown} points outside the archive")
    if entry.flag_bits & 0x1:
        raise RefusedError(f"CG103 the archive entry {shown} is encrypted")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise RefusedError(
            f"CG103 the archive entry {shown} is compressed; torch.save never does, "
            f"and a few bytes can unpack to many: {RESAVE}"
        )
    if name.endswith("data.pkl") and entry.file_size > MAX_BYTES:
        raise RefusedError(f"CG104 {shown} has {entry.file_size} bytes, more than {MAX_BYTES}")
