"""Path to verified weights: inspect, load without running code, check, name the architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clipguard.checkpoint.architectures import (
    Architecture,
    Shapes,
    architecture_from_file,
    architecture_named,
    computes_alike,
    known_configs,
    network_of,
    shapes_of,
)
from clipguard.checkpoint.fitting import Fit, Told, fitted, infer_at_any_size, is_image_tower
from clipguard.checkpoint.gather import Gathered, gather
from clipguard.checkpoint.names import TEXT_PARTS
from clipguard.checkpoint.sandbox import AUTO, Guard
from clipguard.checkpoint.tokenizer_file import TokenizerFile, needs_own, tokenizer_in
from clipguard.checkpoint.told import fitting, told_architecture
from clipguard.errors import UsageError
from clipguard.record import ArchitectureRecord, CheckpointRecord

LOGIT_SCALE = math.log(1 / 0.07)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights that passed every check, and what they are.

    Attributes:
        record: identity for the audit record.
        state: key to tensor on the CPU, floating point as float32, keys as open_clip names
            them and in the order of the network's layers, whatever the file's was.
        architecture: the network the weights belong to.
        rivals: other architectures with the same shapes, which compute differently.
        tokenizer: the one that lies beside them, if their text tower has one of its own.
    """

    record: CheckpointRecord
    state: dict[str, Tensor]
    architecture: Architecture
    rivals: tuple[Architecture, ...] = ()
    tokenizer: TokenizerFile | None = None

    def chosen(self, architecture: Architecture, choice: ArchitectureRecord) -> Checkpoint:
        """The same weights as `architecture`, which is this one or a rival."""
        others = [one for one in (self.architecture, *self.rivals) if one != architecture]
        notes = [note for note in self.record.notes if note not in self.architecture.notes]
        update = {
            "architecture": architecture.name,
            "image_size": architecture.image_size,
            "architecture_choice": choice,
            "notes": (*notes, *architecture.notes),
        }
        record = self.record.model_copy(update=update)
        return replace(self, record=record, architecture=architecture, rivals=tuple(others))


def load_checkpoint(
    path: Path,
    *,
    arch: str | None = None,
    text_from: Path | None = None,
    lora_base: Path | None = None,
    guard: Guard = AUTO,
) -> Checkpoint:
    """Load `path` without running anything in it.

    Args:
        path: weights file, an index of several, or a folder with weights and perhaps a config.
        arch: architecture name or config JSON; None to use what lies beside it, or the shapes.
        text_from: model whose text tower an image tower gets that was saved alone.
        lora_base: model that a LoRA adapter is merged into.
        guard: how to open the files.

    Raises:
        UsageError: no such path, or no one architecture that fits; the message starts with the
            file's name and ends with what was odd about it.
        RefusedError: anything but plain, finite, honestly sized tensors under printable names;
            the message starts with the file's name.
        BudgetSpentError: it took longer than the guard's deadline allows.
    """
    found = gather(path, lora_base, guard)
    try:
        found = _with_text(found, text_from, guard)
        fit = fitted(partial(_told, found, arch), shapes_of(found.tensors))
        tokenizer, told = _tokenizer(fit.architecture, found.places)
    except UsageError as error:
        odd = f" ({'; '.join(found.notes)})" if found.notes else ""
        raise UsageError(f"{found.file}: {error}{odd}") from error
    architecture, state, rivals = fit.architecture, found.tensors, _rivals(fit)
    with torch.device("meta"):
        network = network_of(architecture)
    record = CheckpointRecord(
        name=found.shown,
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        container=found.container,
        architecture=architecture.name,
        image_size=architecture.image_size,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        notes=(*found.notes, *fit.notes, *architecture.notes, *told),
        architecture_choice=ArchitectureRecord(by=fit.by, rivals=tuple(one.name for one in rivals)),
        sandbox=found.sandbox,
        others=found.others,
    )
    keys = [*network.state_dict()]
    state |= {key: torch.tensor(0) for key in keys if key.endswith("num_batches_tracked")}
    state.setdefault("logit_scale", torch.tensor(LOGIT_SCALE))
    ordered = {key: state[key] for key in keys if key in state}
    return Checkpoint(record, ordered, architecture, rivals, tokenizer)


def _tokenizer(
    architecture: Architecture, places: Sequence[Path]
) -> tuple[TokenizerFile | None, tuple[str, ...]]:
    """The model's own tokenizer, where it needs one, from the first folder that has it."""
    text = architecture.config["text_cfg"]
    if not needs_own(text, architecture.siglip):
        return None, ()
    for place in places:
        found = tokenizer_in(place, text)
        if found is not None:
            return found, (f"CG110 texts are read by {found.name}, sha256 {found.sha256}",)
    return None, ()


def _with_text(found: Gathered, text_from: Path | None, guard: Guard) -> Gathered:
    """An image tower with the text tower of another model, read as warily."""
    alone = is_image_tower(found.tensors)
    if text_from is None and alone:
        raise UsageError(
            "an image tower without its text tower; give the CLIP that the text tower comes from "
            "with --text-from MODEL"
        )
    if text_from is None:
        return found
    if not alone:
        raise UsageError("has a text tower of its own; leave out --text-from")
    other = gather(text_from, guard=guard)
    towers = TEXT_PARTS | {"logit_scale", "logit_bias"}
    text = {key: t for key, t in other.tensors.items() if key.partition(".")[0] in towers}
    if not text.keys() - {"logit_scale", "logit_bias"}:
        raise UsageError(f"--text-from {other.shown} has no text tower; give a whole CLIP")
    told = f"CG110 text tower and logit_scale are those of {other.shown}, sha256 {other.sha256}"
    return replace(
        found,
        tensors={**text, **found.tensors},
        notes=(*found.notes, told),
        places=(*found.places, *other.places),
        others=(*found.others, *other.others),
    )


def _told(found: Gathered, arch: str | None, shapes: Shapes) -> Told:
    """The architecture, and what told it; where only shapes do, and fit several, the usual one."""
    if arch is not None:
        return Told(fitting(architecture_asked(arch), shapes), "--arch")
    if (told := told_architecture(found, shapes)) is not None:
        return told
    fits = infer_at_any_size(shapes)
    return Told(fits[0], "default" if fits[1:] else "shapes")


def architecture_asked(arch: str) -> Architecture:
    """The architecture that a name or a config file stands for.

    Raises:
        UsageError: no such name, or a file that is no config.
    """
    is_file = arch not in known_configs() and Path(arch).is_file()
    return architecture_from_file(Path(arch)) if is_file else architecture_named(arch)


def _rivals(fit: Fit) -> tuple[Architecture, ...]:
    """Known architectures with the same shapes that compute differently."""
    if fit.architecture.siglip:  # the only one of its form
        return ()
    try:
        fits = infer_at_any_size(fit.shapes)
    except UsageError:  # a config file made it, and none is known with these shapes
        return ()
    return tuple(one for one in fits if not computes_alike(one, fit.architecture))
