"""Which CLIP architecture a state dict belongs to: by shapes, by name, or by a config file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import Tensor, nn

from clipguard.bundled.nano import CONFIGS
from clipguard.checkpoint.configs import OPENAI, Preprocess, clip_part
from clipguard.checkpoint.formats import config_from
from clipguard.checkpoint.siglip import shapes_of_tower, siglip_network
from clipguard.checkpoint.unwrap import IGNORED
from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

Shapes = Mapping[str, tuple[int, ...]]
QUICK = "-quickgelu"
"""Ending of a name for the same network with the other activation."""


OF_TRANSFORMERS = (
    "text towers from Hugging Face transformers, such as xlm-roberta, are not supported: nothing "
    "of this model was tested"
)


class NoneFitsError(UsageError):
    """No known architecture has these shapes."""


@dataclass(frozen=True)
class Architecture:
    """A CLIP without weights.

    Attributes:
        name: open_clip or clipguard name, or the name of the config file.
        config: open_clip model config; untrusted values have been checked.
        preprocess: how images are prepared.
        notes: rule id and text of what had to be assumed.
        siglip: see `ConfigFile.siglip`.
    """

    name: str
    config: Mapping[str, Any]
    preprocess: Preprocess = OPENAI
    notes: tuple[str, ...] = ()
    siglip: bool = False

    @property
    def image_size(self) -> int:
        """S, the side of a square input image, in pixels."""
        return int(self.config["vision_cfg"]["image_size"])


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that tells architectures apart."""
    return {key: tuple(t.shape) for key, t in state.items() if not key.endswith(IGNORED)}


def network_of(architecture: Architecture) -> nn.Module:
    """Instantiate the open_clip network with random weights on the current default device.

    Raises:
        UsageError: open_clip cannot build it, or its text tower lives outside open_clip.
    """
    config = {k: v for k, v in architecture.config.items() if k != "nonscalar_logit_scale"}
    reason = _unsupported(config)
    if reason:
        raise UsageError(f"architecture {architecture.name}: {reason}")
    build = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    config["vision_cfg"] = dict(config["vision_cfg"])
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False  # never fetch weights
    try:
        network: nn.Module = siglip_network(config) if architecture.siglip else build(**config)
    except Exception as error:  # a config from outside can fail anywhere inside a constructor
        raise UsageError(
            f"architecture {architecture.name}: open_clip cannot build it ({safe_text(error)}); "
            "check the config"
        ) from error
    return network


def shape_difference(architecture: Architecture, shapes: Shapes) -> str | None:
    """The first tensor in which `shapes` do not fit, or None for an exact fit."""
    wanted = _cheap_shapes(architecture)
    for key in sorted(wanted):
        if shapes.get(key) != wanted[key]:
            return _says(key, wanted[key], shapes.get(key))
    for prefix, layers in _layer_counts(architecture).items():
        found = len(
            {key[len(prefix) :].partition(".")[0] for key in shapes if key.startswith(prefix)}
        )
        if found != layers:
            return f"{prefix}*: expected {layers} layers, got {found}"
    with torch.device("meta"):
        wanted = shapes_of(network_of(architecture).state_dict())
    for key in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(key) != shapes.get(key):
            return _says(key, wanted.get(key), shapes.get(key))
    return None


def fitting_architectures(shapes: Shapes) -> tuple[Architecture, ...]:
    """The known architectures with exactly these shapes, each of which computes differently.

    Mostly one. Shapes cannot tell GELU from QuickGELU; then the first has open_clip's default.

    Raises:
        UsageError: none fits.
    """
    fits: dict[str, Architecture] = {}
    of_timm = any(key.startswith("visual.trunk.") for key in shapes)
    for name, config in known_configs().items():
        if bool(config["vision_cfg"].get("timm_model_name")) != of_timm:
            continue  # building all of timm's would take seconds
        candidate = architecture_named(name)
        if shape_difference(candidate, shapes) is None:
            twin = json.dumps(
                [_normal(candidate.config), vars(candidate.preprocess)], sort_keys=True
            )
            fits.setdefault(twin, candidate)
    if not fits and any(".word_embeddings." in key for key in shapes):
        raise UsageError(OF_TRANSFORMERS)
    if not fits:
        raise NoneFitsError(
            "no known architecture has these shapes; pass --arch NAME or a config JSON"
        )
    return tuple(sorted(fits.values(), key=lambda one: bool(one.config.get("quick_gelu"))))


def computes_alike(one: Architecture, other: Architecture) -> bool:
    """Whether both are the same network, however images are prepared for it."""
    return _normal(one.config) == _normal(other.config)


@lru_cache(maxsize=1)
def known_configs() -> dict[str, dict[str, Any]]:
    """Every architecture that open_clip and clipguard ship and clipguard can build.

    What open_clip builds itself can be trained with QuickGELU (`--force-quick-gelu`), whether it
    ships a config for that or not, so each has such a twin. Towers of timm never compute with it.
    """
    shipped = {n: clip_part(open_clip.get_model_config(n)) for n in open_clip.list_models()}
    own = {n: c for n, c in shipped.items() if not c["vision_cfg"].get("timm_model_name")}
    twins = {
        f"{n}{QUICK}": {**c, "quick_gelu": True} for n, c in own.items() if not c.get("quick_gelu")
    }
    return {n: c for n, c in (CONFIGS | twins | shipped).items() if _unsupported(c) is None}


def architecture_named(name: str) -> Architecture:
    """The known architecture `name`, with the preprocessing its published weights agree on.

    Raises:
        UsageError: no such architecture, with a suggestion.
    """
    if name not in known_configs():
        close = difflib.get_close_matches(name, known_configs(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "a config JSON file works, too"
        if name in open_clip.list_models():
            hint = str(_unsupported(open_clip.get_model_config(name)))
        raise UsageError(f"no architecture {safe_text(name)!r} for --arch: {hint}")
    shipped = name if name in open_clip.list_models() else name.removesuffix(QUICK)
    tags = list_pretrained_tags_by_model(shipped) if name not in CONFIGS else []
    published = {_published(shipped, tag) for tag in tags}
    if len(published) == 1:
        return Architecture(name, known_configs()[name], published.pop())
    notes: tuple[str, ...] = ()
    if published:
        notes = (f"CG110 published weights of {name} differ in preprocessing; OpenAI's is assumed",)
    return Architecture(name, known_configs()[name], notes=notes)


def architecture_from_file(path: Path) -> Architecture:
    """The architecture in a model config, an `open_clip_config.json` or transformers' config.

    Raises:
        UsageError: not a usable config.
    """
    file = config_from(path)
    if reason := _unsupported(file.model):
        raise UsageError(f"{safe_text(path.name)}: {reason}")
    same = [n for n, other in known_configs().items() if _normal(other) == _normal(file.model)]
    if file.preprocess is None and same:
        return architecture_named(same[0])
    shown = safe_text(path.name)
    own = f"{file.kind} ({shown})" if file.kind else shown
    name = same[0] if same and not file.siglip else own
    steps = file.preprocess or OPENAI
    return Architecture(name, file.model, steps, file.notes, file.siglip)


def _published(name: str, tag: str) -> Preprocess:
    values = get_pretrained_cfg(name, tag)
    return Preprocess(
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        interpolation=values["interpolation"],
        resize_mode=values["resize_mode"],
    )


def _unsupported(config: Mapping[str, Any]) -> str | None:
    if config["text_cfg"].get("hf_model_name"):
        return OF_TRANSFORMERS
    trunk = config["vision_cfg"].get("timm_model_name")
    if trunk and not (isinstance(trunk, str) and timm.is_model(trunk)):
        return f"timm has no image tower {safe_text(trunk)}"
    return None


def _cheap_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes that can be read off a config without building anything."""
    config = architecture.config
    vision, text = config["vision_cfg"], config["text_cfg"]
    prefix = "text." if config.get("custom_text") else ""
    positions = text["context_length"] + bool(text.get("embed_cls"))
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}token_embedding.weight": (text["vocab_size"], text["width"]),
        f"{prefix}positional_embedding": (positions, text["width"]),
    }
    if architecture.siglip:
        return shapes | shapes_of_tower(vision)
    if vision.get("timm_model_name"):
        return shapes
    width, side = vision["width"], vision["image_size"]
    if isinstance(vision["layers"], list):
        shapes["visual.attnpool.positional_embedding"] = ((side // 32) ** 2 + 1, width * 32)
        shapes["visual.attnpool.c_proj.weight"] = (config["embed_dim"], width * 32)
    else:
        patch = vision["patch_size"]
        shapes["visual.conv1.weight"] = (width, 3, patch, patch)
        shapes["visual.positional_embedding"] = ((side // patch) ** 2 + 1, width)
    return shapes


def _layer_counts(architecture: Architecture) -> dict[str, int]:
    """Number of layers under a key prefix: bounds the work of building a config from outside."""
    config = architecture.config
    vision = config["vision_cfg"]
    prefix = "text." if config.get("custom_text") else ""
    counts = {f"{prefix}transformer.resblocks.": config["text_cfg"]["layers"]}
    if architecture.siglip:
        return counts | {"visual.trunk.blocks.": vision["layers"]}
    if vision.get("timm_model_name"):
        return counts
    if isinstance(vision["layers"], list):
        return counts | {f"visual.layer{i}.": n for i, n in enumerate(vision["layers"], start=1)}
    return counts | {"visual.transformer.resblocks.": vision["layers"]}


def _says(key: str, wanted: tuple[int, ...] | None, got: tuple[int, ...] | None) -> str:
    if wanted is None:
        return f"{safe_text(key)}: unexpected tensor of shape {got}"
    return (
        f"{safe_text(key)}: expected shape {wanted}, got {'no such tensor' if got is None else got}"
    )


def _normal(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without the entries that say nothing."""
    return {
        key: _normal(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if value is not None and value is not False and key != "timm_model_pretrained"
    }
