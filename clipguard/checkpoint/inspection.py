"""Look at a model file before anything loads it. Pure Python: torch is never imported here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipguard.checkpoint.layouts import Layout, read_layout
from clipguard.checkpoint.source import Source, opened
from clipguard.errors import RefusedError
from clipguard.files import require_path
from clipguard.text_safety import safe_text


@dataclass(frozen=True)
class Inspection:
    """What the static pass saw; a file that is refused has none.

    Attributes:
        container: `zip`, `TorchScript`, `legacy` or `safetensors`.
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors about the content of `path` begin with its name, once."""
    name = f"{safe_text(path.name)}: "
    try:
        yield
    except RefusedError as error:
        raise RefusedError(f"{name}{str(error).removeprefix(name)}") from error


def inspect_file(path: Path) -> Inspection:
    """Find out what `path` is by its content, and refuse it if loading it could do harm.

    Args:
        path: a weights file; `files_of` says which of a folder that is.

    Raises:
        UsageError: nothing there.
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
    require_path(path)
    with opened(path) as source:
        yield checked(source, path)


def checked(source: Source, path: Path) -> OpenCheckpoint:
    """The static pass over a file that is open.

    Args:
        source: the file.
        path: what it is called; it is not opened again.

    Raises:
        RefusedError: as `inspect_file`.
    """
    with naming(path):
        layout = read_layout(source)
    inspection = Inspection(
        container=layout.container,
        notes=(*_misnamed(path.suffix, layout.container), *layout.notes),
        sha256=source.sha256(),
        size_bytes=source.size,
        weights_file=path,
    )
    return OpenCheckpoint(inspection, layout, source)


def _misnamed(suffix: str, container: str) -> tuple[str, ...]:
    if (suffix.lower() == ".safetensors") == (container == "safetensors"):
        return ()
    if container == "safetensors":
        return (f"CG102 safetensors content in a file named {safe_text(suffix)}",)
    return (f"CG102 named .safetensors, but the content is {container}",)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with opened(path) as source:
        return source.sha256()
