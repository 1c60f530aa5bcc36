"""From the names of a weights file to those of one CLIP. Pure Python, no torch.

Trainers, wrappers and other libraries put prefixes before the names. Nothing here drops a tensor:
what has another prefix than the CLIP keeps its whole name, and `fitting` decides about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipguard.checkpoint.unwrap import named
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

IMAGE = frozenset({"visual", "vision_model"})
"""First part of the names of an image tower, in open_clip and in transformers."""
TEXT = ("token_embedding.weight", "text.token_embedding.weight", "text_model.")
BARE = ("conv1.weight", "ln_post.weight"), ("conv1.weight", "attnpool.c_proj.weight")
"""Names that only open_clip's image towers have, where they were saved alone."""
COMPILED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of a name that torch adds around a module, anywhere."""
TEXT_PARTS = frozenset(
    {
        "text",
        "transformer",
        "token_embedding",
        "positional_embedding",
        "ln_final",
        "text_projection",
        "text_model",
    }
)
OWN = TEXT_PARTS | {"visual", "vision_model", "visual_projection", "logit_scale", "logit_bias"}
"""First part of every name that a CLIP may have. A tensor below one is never left out: it may
mean that the network is another one."""
CUTS = tuple(map(len, ("module.", "model.", "_orig_mod.")))
"""Characters that readers take off every name if the first begins with such a prefix."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""Ends of the names of the two factors of a LoRA adapter."""
MAX_ROOTS = 16
MEAN = ("ema", "averaged", "swa", "teacher", "momentum")
"""What a prefix says where the weights below it are no trained ones, but their running mean."""


@dataclass(frozen=True)
class Naming:
    """How the tensors of a file are called.

    Attributes:
        names: name in the file, to the name without what stands before all names of the CLIP.
        notes: rule id and text of what there was to choose from.
    """

    names: dict[str, str]
    notes: tuple[str, ...]


def plain_names(keys: Iterable[str]) -> Naming:
    """Take off whatever prefix the names of the one CLIP among `keys` have.

    Raises:
        RefusedError: two names become one (CG107), so that two readers would see two models.
    """
    stripped = {key: _without_wrappers(key) for key in keys}
    names = list(stripped.values())
    roots = _roots(names)
    if not roots:
        bare = _bare_tower(names)
        if bare is None:
            return Naming(_distinct(stripped), ())
        added = {k: f"visual.{n[len(bare) :]}" for k, n in stripped.items() if n.startswith(bare)}
        return Naming(_distinct(stripped | added), ())
    root = min(roots, key=lambda root: (_rank(root, names), roots.index(root)))
    cut = {key: name[len(root) :] for key, name in stripped.items() if name.startswith(root)}
    outside = {key: name for key, name in stripped.items() if key not in cut}
    # What stands outside must never pass for a part: such a name is marked by its root.
    kept = {key: f"/{name}" if root else name for key, name in outside.items()}
    return Naming(_distinct(cut | kept), _notes(root, roots))


def is_adapter(keys: Mapping[str, object]) -> bool:
    """Whether these are the tensors of a LoRA adapter, which is no model by itself."""
    return any(key.endswith(DOWN) for key in keys)


def is_own(name: str) -> bool:
    """Whether a CLIP may have a tensor of this name."""
    return name.partition(".")[0] in OWN


def require_one_reading(names: Mapping[str, str]) -> None:
    """Refuse a tensor that a reader which cuts another prefix would take for a part of the CLIP.

    Some cut as many characters as the usual prefix has off every name, some whatever stands before
    a name that they know.

    Args:
        names: see `Naming.names`.

    Raises:
        RefusedError: there is one (CG107).
    """
    own = set(filter(is_own, names.values()))
    for key, name in names.items():
        if name in own:
            continue
        parts = name.removeprefix("/").split(".")
        ends = {".".join(parts[i:]) for i in range(len(parts))} | {key[n:] for n in CUTS}
        if hidden := ends & own:
            raise RefusedError(
                f"CG107 {safe_text(key)} and {safe_text(min(hidden))} are one tensor to some "
                "readers, so two of them would see two models; save one model alone"
            )


def _without_wrappers(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in COMPILED)


def _roots(names: Sequence[str]) -> list[str]:
    """Everything that stands before the name of an image tower, or else of a text tower."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts[:-1]) if part in IMAGE), None)
        if at is not None:
            found["".join(f"{part}." for part in parts[:at])] = None
    if not found:
        for name in names:
            ends = [end for end in TEXT if _ends(name, end)]
            if ends:
                found[name[: min(map(name.index, ends))]] = None
    return [*found][:MAX_ROOTS]


def _ends(name: str, end: str) -> bool:
    return f".{end}" in f".{name}" if end.endswith(".") else f".{name}".endswith(f".{end}")


def _bare_tower(names: Sequence[str]) -> str | None:
    """What stands before the names of an image tower that has no name of its own."""
    have = set(names)
    for name in names:
        for marks in BARE:
            root = name.removesuffix(marks[0])
            if root != name and {f"{root}{mark}" for mark in marks} <= have:
                return root
    return None


def _rank(root: str, names: Sequence[str]) -> tuple[bool, bool]:
    """First a CLIP with both towers, then one that is no running mean."""
    mine = [name[len(root) :] for name in names if name.startswith(root)]
    has_text = any(name.startswith(TEXT) for name in mine)
    return not has_text, _is_mean(root)


def _is_mean(root: str) -> bool:
    return any(word in part.split("_") for part in root.split(".") for word in MEAN)


def _notes(root: str, roots: Sequence[str]) -> tuple[str, ...]:
    others = [other or "no prefix" for other in roots if other != root]
    shown = safe_text(root or "no prefix")
    notes: tuple[str, ...] = ()
    if others:
        notes += (f"CG110 also holds weights under {named(others)}; those under {shown} are read",)
    if _is_mean(root):
        notes += (f"CG110 averaged weights are read, those under {shown}",)
    return notes


def _distinct(names: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for key, name in names.items():
        if name in seen:
            raise RefusedError(
                f"CG107 two tensors are called {safe_text(name)}: {safe_text(seen[name])} and "
                f"{safe_text(key)}"
            )
        seen[name] = key
    return names
