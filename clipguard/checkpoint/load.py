"""Path to verified weights: inspect, load without running code, check, name the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
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
from clipguard.checkpoint.inspection import Inspection, inspect_file, sha256_of
from clipguard.errors import RefusedError, UsageError
from clipguard.record import CheckpointRecord
from clipguard.text_safety import safe_text

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "model_ema", "network", "clip")
PREFIXES = ("module.", "_orig_mod.")
OPENAI_SCALARS = frozenset({"input_resolution", "context_length", "vocab_size"})
MAX_KEY = 512
MAX_WRAPPERS = 3
MAX_GROWTH = 8
"""Bytes in float32 over bytes of the file: four for 8-bit weights, and some stand twice."""
SCALAR = np.float64(0).__reduce__()[0]  # its module has moved between NumPy versions
NUMPY_SCALARS: list[Any] = [
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")},
]


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
    inspection = inspect_file(path)
    weights = inspection.weights_file
    try:
        raw, form, notes = _unwrap(_read(inspection))
        if sha256_of(weights) != inspection.sha256:
            raise RefusedError("CG103 the file changed while it was being read; try again")
        needed = sum(4 * t.numel() for t in raw.values() if isinstance(t, Tensor))
        if needed > MAX_GROWTH * inspection.size_bytes:
            raise RefusedError(f"CG105 the tensors need {needed} bytes, far more than the file has")
        for key, tensor in raw.items():
            _check_tensor(key, tensor)
        state = _clean(raw)
        architecture = _architecture(path, arch, shapes_of(state))
    except (RefusedError, UsageError) as error:
        raise type(error)(f"{safe_text(weights.name)}: {error}") from error
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


def _read(inspection: Inspection) -> object:
    try:
        if "safetensors" in inspection.container:
            # cloned, because the tensors are views of the file and the file may still change
            return {k: t.clone() for k, t in load_file(inspection.weights_file).items()}
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(inspection.weights_file, map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes: torch raises whatever its parsers raise
        reason = safe_text(str(error).partition("\n")[0])
        raise RefusedError(f"CG103 the restricted loader refused it: {reason}") from error


def _unwrap(loaded: object) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
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
            f"{'an empty one' if isinstance(loaded, Mapping) else type(loaded).__name__}; "
            "save model.state_dict()"
        )
    return dict(loaded), form, notes


def _wrapped(loaded: object) -> dict[str, Mapping[object, object]]:
    """The mappings inside `loaded` that usually are the weights, most usual first."""
    if not isinstance(loaded, Mapping):
        return {}
    return {key: loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)}


def _check_tensor(key: object, tensor: object) -> None:
    if not isinstance(key, str) or len(key) > MAX_KEY or not key.isprintable():
        raise RefusedError(
            f"CG108 expected printable tensor names of up to {MAX_KEY} characters, "
            f"got {safe_text(repr(key))}"
        )
    shown = safe_text(key)
    if not isinstance(tensor, Tensor):
        raise RefusedError(
            f"CG102 expected tensors only, got {type(tensor).__name__} under {shown!r}; "
            "save model.state_dict() alone"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or _overlaps(tensor):
        raise RefusedError(
            f"CG105 tensor {shown} is sparse, quantised or larger than the bytes behind it; "
            "save plain dense weights"
        )
    if key.endswith(IGNORED) or key.rpartition(".")[2] in OPENAI_SCALARS:
        return
    if not tensor.is_floating_point():
        raise RefusedError(f"CG105 tensor {shown} has type {tensor.dtype}, expected floating point")
    if not tensor.detach().float().isfinite().all():
        raise RefusedError(f"CG109 tensor {shown} holds values that are not finite in float32")


def _overlaps(tensor: Tensor) -> bool:
    """Whether two indices of `tensor` share bytes, as in a view that claims more than is there."""
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < extent:
                return True
            extent += stride * (size - 1)
    return False


def _clean(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys as open_clip names them, values detached and in float32."""
    state = dict(raw)
    for prefix in PREFIXES * 2:  # either may be the outer one
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: tensor for key, tensor in state.items()}
    kept = {
        key: tensor.detach().float()
        for key, tensor in state.items()
        if not key.endswith(IGNORED) and key not in OPENAI_SCALARS
    }
    for key in ("logit_scale", "logit_bias"):
        if key in kept and kept[key].numel() == 1:
            kept[key] = kept[key].reshape(())
    return kept


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
