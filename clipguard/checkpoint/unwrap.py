"""Where in a file the weights are: the one mapping of names to tensors. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipguard.checkpoint.values import ITEM_BYTES, LeftOut, TensorRef
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "model_ema", "network", "clip")
OPENAI_SCALARS = frozenset({"input_resolution", "context_length", "vocab_size"})
IGNORED = ("attn_mask", "num_batches_tracked", "position_ids")
"""Endings of keys that some versions of torch and open_clip save and others do not."""
MAX_KEY = 512
MAX_WRAPPERS = 3
FLOATS = frozenset(name for name in ITEM_BYTES if "float" in name)


@dataclass(frozen=True)
class Weights:
    """The weights of a file, not read yet.

    Attributes:
        tensors: name, as the file has it, to description; all dense, of floating point.
        form: what they were found in.
        notes: rule id and text of what was left.
    """

    tensors: dict[str, TensorRef]
    form: str
    notes: tuple[str, ...]


def weights_in(content: object) -> Weights:
    """Find the weights in what a file holds.

    Args:
        content: that of a `Layout`.

    Raises:
        RefusedError: no mapping of names to tensors (CG102), tensors that are not plain and dense
            (CG105), or names that no one can read (CG108).
    """
    raw, form, notes = _unwrap(content)
    checked = map(_checked, raw.items())
    return Weights({key: ref for key, ref in checked if not _is_ignored(key)}, form, notes)


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
