"""Other models in the folder of a model: whether they are the same one, read tensor by tensor.

Libraries differ in which file of a folder they load: open_clip takes its own names first, then any
`.safetensors`, transformers `model.safetensors` before `pytorch_model.bin`. A verdict about one
file says nothing of another that holds other weights.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from clipguard.checkpoint.folder import OF_OTHERS, ModelFiles, files_of
from clipguard.checkpoint.formats import format_of, open_clip_names
from clipguard.checkpoint.guarded import guarded_file, guarded_weights
from clipguard.checkpoint.inspection import naming
from clipguard.checkpoint.lora import CONFIG
from clipguard.checkpoint.names import (
    DOWN,
    UP,
    is_adapter,
    is_own,
    plain_names,
    require_one_reading,
)
from clipguard.checkpoint.sandbox import Guard
from clipguard.checkpoint.tensors import each_tensor
from clipguard.errors import RefusedError, UsageError
from clipguard.record import OtherModelRecord
from clipguard.text_safety import safe_text

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
PARTS = re.compile(r"self_attn\.[qkv]_proj\.")
"""Three tensors of transformers that are one in open_clip."""
UNREAD = "holds weights for Flax or TensorFlow, which clipguard does not read"
ADAPTER = (
    f"is a LoRA adapter with its {CONFIG}, which transformers adds to the model by itself; scan "
    "the adapter's folder with --lora-base"
)


def others_compared(
    judged: Mapping[str, Tensor], paths: Sequence[Path], guard: Guard
) -> tuple[OtherModelRecord, ...]:
    """What the other models of a folder are to the one that was read.

    Only one tensor of them is held at a time. Files without a tensor of a CLIP, and adapters that
    nothing loads by itself, are no models.

    Args:
        judged: the weights that were read, without a prefix before their names.
        paths: files, and indices of several.
        guard: how to open them.

    Raises:
        BudgetSpentError: it took longer than the guard's deadline allows.
    """
    if not paths:
        return ()
    mine, _ = open_clip_names(dict(judged))
    found = [_compared(mine, path, guard) for path in paths]
    return tuple(one for one in found if one is not None)


def _compared(mine: Mapping[str, Tensor], path: Path, guard: Guard) -> OtherModelRecord | None:
    name = safe_text(path.name)
    try:
        said = _difference(mine, path, guard)
    except (RefusedError, UsageError) as error:
        told = str(error).removeprefix(f"{name}: ")
        return OtherModelRecord(name=name, equal=False, says=f"cannot be compared with it ({told})")
    if isinstance(said, str):
        return OtherModelRecord(name=name, equal=False, says=said)
    if said is None:
        return None
    rounded = " and ".join(sorted(said.rounded))
    told = f"holds the same weights{f', rounded to {rounded}' if rounded else ''}"
    return OtherModelRecord(name=name, equal=True, says=told)


@dataclass
class _Seen:
    """What was seen of another model.

    Attributes:
        names: of its tensors, as open_clip has them.
        rounded: types that weights were rounded to in one of the two.
    """

    names: set[str] = field(default_factory=set)
    rounded: set[str] = field(default_factory=set)


def _difference(mine: Mapping[str, Tensor], path: Path, guard: Guard) -> str | _Seen | None:
    """The first difference, or what was seen where there is none; None for what is no model."""
    if OF_OTHERS.fullmatch(path.name):
        return UNREAD
    files, seen = files_of(path), _Seen()
    names = _names(files, guard)
    if is_adapter(names) and not is_adapter(mine) and (path.parent / CONFIG).is_file():
        return ADAPTER
    if not any(is_own(name) and not name.endswith((DOWN, UP)) for name in names.values()):
        return None
    for key, tensor in _as_open_clips(_each(files, guard), names):
        told = _unlike(mine.get(key), tensor)
        if told is None:
            return f"has another {safe_text(key)}"
        seen.names.add(key)
        seen.rounded.update({told} - {""})
    return _missing(mine, seen) or seen


def _names(files: ModelFiles, guard: Guard) -> dict[str, str]:
    """Name in the files to name without a prefix, of all tensors."""
    keys: list[str] = []
    for part in files.weights:
        found = guarded_file(part, guard)
        if found.refusal is not None:
            raise RefusedError(found.refusal)
        keys += [tensor.name for tensor in found.tensors]
    if files.where and sorted(keys) != sorted(files.where):
        # A file that an index names is compared through it alone, so it must list every tensor.
        raise RefusedError("CG103 the index lists other tensors than its files hold")
    names = plain_names(keys).names
    require_one_reading(names)
    return names


def _each(files: ModelFiles, guard: Guard) -> Iterator[tuple[str, Tensor]]:
    """All tensors, one after the other, as the files name them."""
    for part in files.weights:
        with guarded_weights(part, guard) as raw, naming(part):
            yield from each_tensor(raw)


def _as_open_clips(
    tensors: Iterator[tuple[str, Tensor]], names: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """Those of the CLIP, as `open_clip_names` gives them; what becomes one is held until then."""
    form = format_of({*names.values()})
    sizes = Counter(map(_group, names.values()))
    held: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for old, tensor in tensors:
        name = names.get(old, old)
        if not is_own(name):
            continue
        group = _group(name)
        held[group][name] = tensor
        if len(held[group]) == sizes[group]:
            whole = held.pop(group)
            yield from (form.open_clip_names(whole) if form else whole).items()
    for rest in held.values():
        yield from rest.items()


def _group(name: str) -> str:
    return PARTS.sub("self_attn.qkv_proj.", name)


def _unlike(mine: Tensor | None, theirs: Tensor) -> str | None:
    """The type that one of two equal tensors is rounded to, or nothing; None if they differ."""
    if mine is None:
        return None
    if mine.numel() == theirs.numel() == 1:  # a scale, with or without a dimension
        mine, theirs = mine.reshape(()), theirs.reshape(())
    if torch.equal(mine, theirs):
        return ""
    if mine.shape == theirs.shape:
        for name, half in HALVES.items():
            # Not the other way round: many models are rounded to one and the same.
            if torch.equal(mine.to(half).float(), theirs):
                return name
    return None


def _missing(mine: Mapping[str, Tensor], seen: _Seen) -> str:
    """That it lacks a tensor of a tower that it has; one tower alone may be missing as a whole."""
    towers = {_is_image(name) for name in seen.names}
    lacks = [k for k in mine if is_own(k) and _is_image(k) in towers and k not in seen.names]
    return f"has no {safe_text(lacks[0])}" if lacks else ""


def _is_image(name: str) -> bool:
    return name.startswith("visual.")
