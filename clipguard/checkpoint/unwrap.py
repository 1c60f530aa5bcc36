"""Where in a file the weights are: the one mapping of names to tensors. Pure Python, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipguard.checkpoint.values import ITEM_BYTES, LeftOut, TensorRef, survey
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "network", "net", "clip")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
"""Looked for after `WRAPPERS`: a running mean of the weights, kept beside them."""
OPENAI_SCALARS = frozenset({"input_resolution", "context_length", "vocab_size"})
IGNORED = ("attn_mask", "num_batches_tracked", "position_ids")
"""Endings of keys that some versions of torch and open_clip save and others do not."""
MAX_KEY = 512
MAX_WRAPPERS = 4
FLOATS = frozenset(name for name in ITEM_BYTES if "float" in name)
COUNTERS = frozenset({"bool", "int16", "int32", "int64"})
"""Types of buffers; eight bits may be a quantised weight."""
MAX_TOLD = 8
NO_PART = "CG110 left out tensors that are no part of the CLIP: "


@dataclass(frozen=True)
class Weights:
    """The weights of a file, not read yet.

    Attributes:
        tensors: name, as the file has it, to description; all dense, of floating point.
        form: what they were found in.
        notes: rule id and text of what was left.
        name: what an open_clip checkpoint calls itself, often its architecture; else empty.
    """

    tensors: dict[str, TensorRef]
    form: str
    notes: tuple[str, ...]
    name: str = ""


def weights_in(content: object) -> Weights:
    """Find the weights in what a file holds.

    Args:
        content: that of a `Layout`.

    Raises:
        RefusedError: no mapping of names to tensors (CG102), tensors that are not plain and dense
            (CG105), or names that no one can read (CG108).
    """
    raw, form, notes = _unwrap(content)
    checked = dict(map(_checked, raw.items()))
    kept = {key: ref for key, ref in checked.items() if not _is_ignored(key)}
    counters = [key for key, ref in kept.items() if _is_counter(key, ref)]
    if counters:
        notes += (f"{NO_PART}{named(counters)} (whole numbers)",)
    found = {key: ref for key, ref in kept.items() if key not in counters}
    return Weights(found, form, notes, _name_in(content))


def named(keys: Sequence[str]) -> str:
    """Names of tensors for a person to read, and how many there are beside."""
    more = f" and {len(keys) - MAX_TOLD} more" if len(keys) > MAX_TOLD else ""
    return ", ".join(safe_text(key) for key in keys[:MAX_TOLD]) + more


def _name_in(content: object) -> str:
    name = content.get("name") if isinstance(content, Mapping) else ""
    return name if isinstance(name, str) and len(name) <= MAX_KEY else ""


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
        if first in AVERAGED:
            notes += (f"CG110 averaged weights are read, those under {first!r}",)
        if inner:
            notes += (f"CG110 also holds weights under {', '.join(inner)}; {first!r} is read",)
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
    found = {key: loaded.get(key) for key in (*WRAPPERS, *AVERAGED)}
    for key, inner in found.items():
        if isinstance(inner, LeftOut) and survey(inner).tensors:
            raise RefusedError(
                f"CG103 tensors stand in a {safe_text(inner.kind)} under {key!r}, which other "
                "readers take for the weights; save model.state_dict()"
            )
    return {key: inner for key, inner in found.items() if isinstance(inner, Mapping) and inner}


def _is_counter(key: str, ref: TensorRef) -> bool:
    """One whole number; more of them could be copied into a weight by another reader."""
    is_one = ref.numel <= 1 and not key.endswith(("logit_scale", "logit_bias"))
    return ref.dtype in COUNTERS and is_one


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
    if not (tensor.dtype in FLOATS or _is_ignored(key) or _is_counter(key, tensor)):
        raise RefusedError(
            f"CG105 tensor {shown} has type torch.{tensor.dtype}, expected floating point"
        )
    return key, tensor


def _kind(value: object) -> str:
    if isinstance(value, LeftOut):
        return safe_text(value.kind)
    return "a tensor" if isinstance(value, TensorRef) else type(value).__name__
