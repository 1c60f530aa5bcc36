"""The weights of a file or folder under open_clip's names, whoever wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from clipguard.checkpoint.configs import read_json
from clipguard.checkpoint.folder import ModelFiles, digest_of, files_of
from clipguard.checkpoint.formats import open_clip_names
from clipguard.checkpoint.guarded import guarded_file
from clipguard.checkpoint.lora import CONFIG, merged
from clipguard.checkpoint.names import is_adapter, plain_names, require_one_reading
from clipguard.checkpoint.others import others_compared
from clipguard.checkpoint.raw import SandboxKind
from clipguard.checkpoint.reading import ReadWeights, read_weights
from clipguard.checkpoint.sandbox import AUTO, Guard
from clipguard.errors import RefusedError, UsageError
from clipguard.record import OtherModelRecord
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
        places: folders in which a config or a tokenizer of the model may lie.
        sandbox: see `RawWeights`.
        others: the other models in the folder, compared with this one.
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
    places: tuple[Path, ...]
    sandbox: SandboxKind
    others: tuple[OtherModelRecord, ...] = ()

    @property
    def shown(self) -> str:
        """Name of the file or folder that was given, for a person."""
        return safe_text(self.path.name or self.path.absolute().name)


def gather(path: Path, lora_base: Path | None = None, guard: Guard = AUTO) -> Gathered:
    """Read the weights of `path` without running anything in it.

    Args:
        path: a weights file, an index of several, or a folder.
        lora_base: the model that a LoRA adapter was trained on.
        guard: how to open the files.

    Raises:
        UsageError: no such path, a folder without one clear model, or an adapter without its base.
        RefusedError: anything but plain, finite, honestly sized tensors under printable names, in
            this or any other weights file of the folder; the message starts with its name.
    """
    found = _read(path, guard)
    try:
        if is_adapter(found.tensors):
            found = _with_base(found, lora_base, guard)
        elif lora_base is not None:
            raise UsageError("is no LoRA adapter; leave out --lora-base")
        tensors, kind = open_clip_names(found.tensors)
    except (RefusedError, UsageError) as error:
        raise type(error)(f"{found.file}: {error}") from error
    for key in ("logit_scale", "logit_bias"):
        if key in tensors and tensors[key].numel() == 1:
            tensors[key] = tensors[key].reshape(())
    container = f"{kind} in a {found.container}" if kind else found.container
    return replace(found, tensors=tensors, container=container, format=kind)


def _read(path: Path, guard: Guard) -> Gathered:
    """The weights as the file names them, without a prefix."""
    files = files_of(path, lambda file: guarded_file(file, guard).refusal)
    parts = [read_weights(file, guard) for file in files.weights]
    first = parts[0].inspection
    file = safe_text(first.weights_file.name)
    try:
        found = _together(parts, files)
        naming = plain_names(found)
        require_one_reading(naming.names)
    except RefusedError as error:
        raise RefusedError(f"{file}: {error}") from error
    notes = [note for part in parts for note in (*part.inspection.notes, *part.notes)]
    tensors = {new: found[old] for old, new in naming.names.items()}
    return Gathered(
        path=path,
        file=file,
        tensors=tensors,
        container=_container(parts, path.is_dir()),
        scripted=first.container == "TorchScript",
        format="",
        says=parts[0].name,
        sha256=digest_of([(p.inspection.weights_file.name, p.inspection.sha256) for p in parts]),
        size_bytes=sum(part.inspection.size_bytes for part in parts),
        notes=(*files.notes, *dict.fromkeys(notes), *naming.notes),
        places=(path if path.is_dir() else path.parent,),
        sandbox=parts[0].sandbox,
        others=others_compared(tensors, files.others, guard),
    )


def _with_base(adapter: Gathered, path: Path | None, guard: Guard) -> Gathered:
    """The base with the adapter merged into it; its digest is that of both."""
    if path is None:
        raise UsageError(
            "a LoRA adapter without the model that it changes; give that with --lora-base MODEL"
        )
    base, config = _read(path, guard), read_json(adapter.places[0] / CONFIG)
    if is_adapter(base.tensors):
        raise UsageError(f"--lora-base {base.shown} is an adapter, too; give a whole CLIP")
    told = f"CG110 LoRA {adapter.shown}, sha256 {adapter.sha256}, merged into {base.shown}, "
    return replace(
        adapter,
        tensors=merged(base.tensors, adapter.tensors, config),
        container=f"LoRA adapter in a {adapter.container}",
        sha256=digest_of([("adapter", adapter.sha256), ("base", base.sha256)]),
        size_bytes=adapter.size_bytes + base.size_bytes,
        notes=(*adapter.notes, *base.notes, f"{told}sha256 {base.sha256}"),
        places=(*adapter.places, *base.places),
        others=(*adapter.others, *base.others),
    )


def _together(parts: Sequence[ReadWeights], files: ModelFiles) -> dict[str, Tensor]:
    """All tensors, each from the file that the index says."""
    found: dict[str, Tensor] = {}
    for part in parts:
        name = part.inspection.weights_file.name
        for key, tensor in part.tensors.items():
            files.require_indexed(key, name)
            found[key] = tensor
    return found


def _container(parts: Sequence[ReadWeights], is_folder: bool) -> str:
    inner = parts[0].inspection.container
    more = f", {len(parts)} files" if len(parts) > 1 else ""
    return f"{parts[0].form} ({'folder, ' if is_folder else ''}{inner}{more})"
