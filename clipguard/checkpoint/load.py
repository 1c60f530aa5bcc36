"""Path to verified weights: inspect, load without running code, check, name the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipguard.checkpoint.architectures import (
    IGNORED,
    Architecture,
    Shapes,
    architecture_from_file,
    architecture_named,
    infer_architecture,
    known_configs,
    network_of,
    shape_difference,
    shapes_of,
)
from clipguard.checkpoint.inspection import open_checkpoint
from clipguard.checkpoint.tensors import read_tensors
from clipguard.checkpoint.values import ITEM_BYTES, LeftOut, TensorRef
from clipguard.errors import RefusedError, UsageError
from clipguard.record import CheckpointRecord
from clipguard.text_safety import safe_text

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "model_ema", "network", "clip")
PREFIXES = ("module.", "_orig_mod.")
OPENAI_SCALARS = frozenset({"input_resolution", "context_length", "vocab_size"})
MAX_KEY = 512
MAX_WRAPPERS = 3
FLOATS = frozenset(name for name in ITEM_BYTES if "float" in name)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights that passed every check, and what they are.

    Attributes:
        record: identity for the audit record.
        state: key to tensor on the CPU, floating point as float32, keys as open_clip names
            them and in the order of the network's layers, whatever the file's was.
        architecture: the network the weights belong to.
    """

    record: CheckpointRecord
    state: dict[str, Tensor]
    architecture: Architecture


def load_checkpoint(path: Path, *, arch: str | None = None) -> Checkpoint:
    """Load `path` without running anything in it.

    Args:
        path: weights file, or a folder with one and perhaps an `open_clip_config.json`.
        arch: architecture name or config JSON; None to use the folder's config or the shapes.

    Raises:
        UsageError: no such path, or no one architecture that fits.
        RefusedError: anything but plain, finite, honestly sized tensors under printable names;
            the message starts with the file's name.
    """
    with open_checkpoint(path) as opened:
        inspection = opened.inspection
        try:
            raw, form, notes = _unwrap(opened.layout.content)
            found = read_tensors(opened.source, opened.layout, _wanted(raw), inspection.sha256)
            _check_finite(found)
            state = _clean(found)
            architecture = _architecture(path, arch, shapes_of(state))
        except (RefusedError, UsageError) as error:
            name = safe_text(inspection.weights_file.name)
            raise type(error)(f"{name}: {error}") from error
    with torch.device("meta"):
        network = network_of(architecture)
    record = CheckpointRecord(
        name=safe_text(path.name or path.absolute().name),
        sha256=inspection.sha256,
        size_bytes=inspection.size_bytes,
        container=f"{form} ({inspection.container})",
        architecture=architecture.name,
        image_size=architecture.image_size,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        notes=(*inspection.notes, *notes, *architecture.notes),
    )
    keys = [*network.state_dict()]
    state |= {key: torch.tensor(0) for key in keys if key.endswith("num_batches_tracked")}
    return Checkpoint(record, {key: state[key] for key in keys if key in state}, architecture)


def _unwrap(loaded: object) -> tuple[Mapping[object, object], str, tuple[str, ...]]:
    """The state dict inside `loaded`, what it was found in, and notes on what was left."""
    form = "state dict"
    notes: tuple[str, ...] = ()
    for _ in range(MAX_WRAPPERS):
        inner = _wrapped(loaded)
        if not isinstance(loaded, Mapping) or not inner:
            break
        is_open_clip = {"epoch", "name", "state_dict"} <= loaded.keys()
        loaded = inner.pop(first := next(iter(inner)))
        form = "open_clip checkpoint" if is_open_clip else f"state dict under {first!r}"
        if inner:
            others = ", ".join(inner)
            notes = (f"CG110 also holds weights under {others}; only {first!r} is looked at",)
    if not isinstance(loaded, Mapping) or not loaded:
        raise RefusedError(
            "CG102 expected a mapping of names to tensors, got "
            f"{'an empty one' if isinstance(loaded, Mapping) else _kind(loaded)}; "
            "save model.state_dict()"
        )
    return loaded, form, notes


def _wrapped(loaded: object) -> dict[str, Mapping[object, object]]:
    """The mappings inside `loaded` that usually are the weights, most usual first."""
    if not isinstance(loaded, Mapping):
        return {}
    return {key: loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)}


def _wanted(raw: Mapping[object, object]) -> dict[str, TensorRef]:
    """The tensors that the network may need, every one of them dense and of floating point."""
    return {key: tensor for key, tensor in map(_checked, raw.items()) if not _is_ignored(key)}


def _is_ignored(key: str) -> bool:
    return key.endswith(IGNORED) or key.rpartition(".")[2] in OPENAI_SCALARS


def _checked(item: tuple[object, object]) -> tuple[str, TensorRef]:
    key, tensor = item
    if not isinstance(key, str) or len(key) > MAX_KEY or not key.isprintable():
        raise RefusedError(
            f"CG108 expected printable tensor names of up to {MAX_KEY} characters, "
            f"got {safe_text(repr(key))}"
        )
    shown = safe_text(key)
    is_odd = isinstance(tensor, LeftOut) and tensor.kind.endswith(" tensor")
    if is_odd or (isinstance(tensor, TensorRef) and tensor.overlaps):
        raise RefusedError(
            f"CG105 tensor {shown} is sparse, quantised or larger than the bytes behind it; "
            "save plain dense weights"
        )
    if not isinstance(tensor, TensorRef):
        raise RefusedError(
            f"CG102 expected tensors only, got {_kind(tensor)} under {shown!r}; "
            "save model.state_dict() alone"
        )
    if tensor.dtype not in FLOATS and not _is_ignored(key):
        raise RefusedError(
            f"CG105 tensor {shown} has type torch.{tensor.dtype}, expected floating point"
        )
    return key, tensor


def _kind(value: object) -> str:
    if isinstance(value, LeftOut):
        return safe_text(value.kind)
    return "a tensor" if isinstance(value, TensorRef) else type(value).__name__


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise RefusedError(
                f"CG109 tensor {safe_text(key)} holds values that are not finite in float32"
            )


def _clean(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys as open_clip names them."""
    state = dict(found)
    for prefix in PREFIXES * 2:  # either may be the outer one
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: tensor for key, tensor in state.items()}
    for key in ("logit_scale", "logit_bias"):
        if key in state and state[key].numel() == 1:
            state[key] = state[key].reshape(())
    return state


def _architecture(path: Path, arch: str | None, shapes: Shapes) -> Architecture:
    config = path / "open_clip_config.json"
    if arch is not None:
        is_file = arch not in known_configs() and Path(arch).is_file()
        chosen = architecture_from_file(Path(arch)) if is_file else architecture_named(arch)
    elif config.is_file():
        chosen = architecture_from_file(config)
    else:
        return infer_architecture(shapes)
    found = shape_difference(chosen, shapes)
    if found:
        raise UsageError(f"the weights do not fit {chosen.name}: {found}; choose another --arch")
    return chosen
