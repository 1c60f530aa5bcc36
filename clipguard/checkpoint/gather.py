"""The weights of a file or folder under open_clip's names, whoever wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clipguard.checkpoint.folder import ModelFiles, digest_of, files_of
from clipguard.checkpoint.formats import open_clip_names
from clipguard.checkpoint.names import plain_names
from clipguard.checkpoint.reading import ReadWeights, read_weights
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text


@dataclass(frozen=True, eq=False)
class Gathered:
    """The weights of a model, of which no architecture is known yet.

    Attributes:
        path: file or folder that was given.
        file: name of the file that is read, for error lines.
        tensors: open_clip's name, or what the file says, to tensor on the CPU, float32, finite.
        container: format found by content.
        scripted: whether that is a TorchScript archive.
        format: library that named the tensors, empty for open_clip.
        says: see `Weights.name`.
        sha256: digest of the file; of several see `digest_of`.
        size_bytes: of all files.
        notes: rule id and text of everything odd but not refused.
    """

    path: Path
    file: str
    tensors: dict[str, Tensor]
    container: str
    scripted: bool
    format: str
    says: str
    sha256: str
    size_bytes: int
    notes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the files lie, and perhaps a config."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def shown(self) -> str:
        """Name of the file or folder that was given, for a person."""
        return safe_text(self.path.name or self.path.absolute().name)


def gather(path: Path) -> Gathered:
    """Read the weights of `path` without running anything in it.

    Args:
        path: a weights file, an index of several, or a folder.

    Raises:
        UsageError: no such path, or a folder without one clear model.
        RefusedError: anything but plain, finite, honestly sized tensors under printable names, in
            this or any other weights file of the folder; the message starts with its name.
    """
    files = files_of(path)
    parts = [read_weights(file) for file in files.weights]
    first = parts[0].inspection
    file = safe_text(first.weights_file.name)
    try:
        found = _together(parts, files)
        naming = plain_names(found)
        tensors, kind = open_clip_names({new: found[old] for old, new in naming.names.items()})
    except RefusedError as error:
        raise RefusedError(f"{file}: {error}") from error
    for key in ("logit_scale", "logit_bias"):
        if key in tensors and tensors[key].numel() == 1:
            tensors[key] = tensors[key].reshape(())
    notes = [note for part in parts for note in (*part.inspection.notes, *part.notes)]
    return Gathered(
        path=path,
        file=file,
        tensors=tensors,
        container=_container(parts, kind, path.is_dir()),
        scripted=first.container == "TorchScript",
        format=kind,
        says=parts[0].name,
        sha256=digest_of([(p.inspection.weights_file.name, p.inspection.sha256) for p in parts]),
        size_bytes=sum(part.inspection.size_bytes for part in parts),
        notes=(*files.notes, *dict.fromkeys(notes), *naming.notes),
    )


def _together(parts: Sequence[ReadWeights], files: ModelFiles) -> dict[str, Tensor]:
    """All tensors, each from the file that the index says."""
    found: dict[str, Tensor] = {}
    for part in parts:
        name = part.inspection.weights_file.name
        for key, tensor in part.tensors.items():
            if files.where and files.where.get(key) != name:
                told = safe_text(files.where.get(key, "no file"))
                raise RefusedError(
                    f"CG107 tensor {safe_text(key)} is in {safe_text(name)}; the index says {told}"
                )
            found[key] = tensor
    return found


def _container(parts: Sequence[ReadWeights], kind: str, is_folder: bool) -> str:
    inner = parts[0].inspection.container
    more = f", {len(parts)} files" if len(parts) > 1 else ""
    what = f"{kind} in a {parts[0].form}" if kind else parts[0].form
    return f"{what} ({'folder, ' if is_folder else ''}{inner}{more})"
