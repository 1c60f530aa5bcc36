"""Look at a model file before anything loads it. Pure Python: torch is never imported here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipguard.checkpoint.layouts import Layout, read_layout
from clipguard.checkpoint.source import Source, opened
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


@dataclass(frozen=True)
class Inspection:
    """What the static pass saw; a file that is refused has none.

    Attributes:
        container: `zip`, `TorchScript`, `legacy`, `safetensors`, or `folder, ...` with one of them.
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


@dataclass(frozen=True)
class OpenCheckpoint:
    """A model file that passed the static pass, still open.

    Attributes:
        inspection: what the pass saw.
        layout: what the file holds, all but the weights.
        source: the file; the weights are read from here, never by opening it again.
    """

    inspection: Inspection
    layout: Layout
    source: Source


def inspect_file(path: Path) -> Inspection:
    """Find out what `path` is by its content, and refuse it if loading it could do harm.

    Args:
        path: a weights file, or a folder with one.

    Raises:
        UsageError: nothing there, or a folder without one clear weights file.
        RefusedError: not a checkpoint, damaged, or more than tensors; the message starts with
            the file's name and a rule id.
    """
    with open_checkpoint(path) as checkpoint:
        return checkpoint.inspection


@contextmanager
def open_checkpoint(path: Path) -> Iterator[OpenCheckpoint]:
    """As `inspect_file`, and the file stays open for whoever reads the weights.

    Raises:
        UsageError: as `inspect_file`.
        RefusedError: as `inspect_file`.
    """
    weights = _weights_in(path) if path.is_dir() else path
    require_path(weights)
    with opened(weights) as source:
        layout = _layout(source, weights)
        container = layout.container
        notes = _beside(weights) if path.is_dir() else []
        if (weights.suffix.lower() == ".safetensors") != (container == "safetensors"):
            if weights.suffix.lower() == ".safetensors":
                notes.append(f"CG102 named .safetensors, but the content is {container}")
            else:
                shown = safe_text(weights.suffix)
                notes.append(f"CG102 safetensors content in a file named {shown}")
        inspection = Inspection(
            container=f"folder, {container}" if path.is_dir() else container,
            notes=(*notes, *layout.notes),
            sha256=source.sha256(),
            size_bytes=source.size,
            weights_file=weights,
        )
        yield OpenCheckpoint(inspection, layout, source)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with opened(path) as source:
        return source.sha256()


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
            with opened(file) as source:
                _layout(source, file)
    names = ", ".join(safe_text(file.name) for file in loaded[:8])
    if not names:
        return []
    return [f"CG110 the folder also holds {names}; only {safe_text(weights.name)} was read"]


def _layout(source: Source, path: Path) -> Layout:
    try:
        return read_layout(source)
    except RefusedError as error:
        raise RefusedError(f"{safe_text(path.name)}: {error}") from error
