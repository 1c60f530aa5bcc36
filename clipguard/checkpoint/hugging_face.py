"""What transformers' CLIPModel and SiglipModel share: names of layers, values of a config."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipguard.checkpoint.configs import (
    ConfigFile,
    Preprocess,
    preprocess_of,
    read_json,
    require_count,
)
from clipguard.errors import RefusedError, UsageError
from clipguard.text_safety import safe_text

OPEN_CLIP_EPSILON = 1e-5
RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's filters."""


@dataclass(frozen=True)
class Format:
    """A model of transformers.

    Attributes:
        name: of its class.
        model_type: what its config.json says.
        mark: a name of a tensor that only this model has.
        open_clip_names: its weights under open_clip's names and in open_clip's shapes.
        read_config: its config.json, which lies in the given folder, as open_clip's.
    """

    name: str
    model_type: str
    mark: str
    open_clip_names: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    read_config: Callable[[Mapping[str, Any], Path], ConfigFile]


@dataclass(frozen=True)
class Block:
    """How another library calls the parts of a layer.

    Attributes:
        parts: name in transformers, without `.weight` or `.bias`, to name there.
        fused: name there of the projections to queries, keys and values in one, up to `weight`.
    """

    parts: Mapping[str, str]
    fused: str


OPEN_CLIP_BLOCK = Block(
    {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    },
    fused="attn.in_proj_",
)


def renamed(
    state: dict[str, Tensor],
    singles: Mapping[str, str],
    layers: Mapping[str, tuple[str, Block]],
) -> dict[str, Tensor]:
    """Weights under the names of another library; what is not known keeps its name.

    Args:
        state: name in transformers to tensor; emptied, so that few tensors are there twice.
        singles: name of a tensor to name there.
        layers: what the names of a stack of layers begin with, to what they begin with there.

    Raises:
        RefusedError: two tensors would get one name (CG107).
    """
    done: dict[str, Tensor] = {}
    for key in list(state):
        if key not in state:  # a part of what was fused
            continue
        name, tensor = singles.get(key, ""), None
        for start, (new, block) in layers.items():
            if key.startswith(start):
                index, _, rest = key[len(start) :].partition(".")
                name, tensor = _of_layer(state, f"{start}{index}.", rest, block)
                name = f"{new}{index}.{name}" if name else ""
        if tensor is None:
            tensor = state.pop(key)
        if (name := name or key) in done:
            raise RefusedError(f"CG107 two tensors are called {safe_text(name)}")
        done[name] = tensor
    return done


def _of_layer(
    state: dict[str, Tensor], layer: str, rest: str, block: Block
) -> tuple[str, Tensor | None]:
    """New name without its layer, empty if not known, and the tensor if it is made of several."""
    part, _, kind = rest.rpartition(".")
    if part in {f"self_attn.{letter}_proj" for letter in "qkv"}:
        keys = [f"{layer}self_attn.{letter}_proj.{kind}" for letter in "qkv"]
        parts = [state[key] for key in keys if key in state]
        if len(parts) == 3 and len({tuple(part.shape) for part in parts}) == 1 and parts[0].ndim:
            for key in keys:
                del state[key]
            return f"{block.fused}{kind}", torch.cat(parts)
    return (f"{block.parts[part]}.{kind}" if part in block.parts else ""), None


def section(raw: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one tower, with transformers' own where the config says nothing.

    Args:
        raw: a config.json.
        tower: `text` or `vision`.
        defaults: what transformers assumes.

    Raises:
        UsageError: no JSON object.
    """
    given = raw.get(f"{tower}_config") or {}
    whole = raw.get(f"{tower}_config_dict")  # of old files; it wins
    if not isinstance(given, dict) or not isinstance(whole or {}, dict):
        raise UsageError(f"{tower}_config: expected a JSON object")
    found = {**defaults, **given, **({**defaults, **whole} if whole else {})}
    return {key: found[key] for key in defaults}


def activation(values: Mapping[str, Any], tower: str) -> str:
    """The activation of a tower.

    Raises:
        UsageError: one that open_clip's networks do not have.
    """
    name = values["hidden_act"]
    if name not in ("quick_gelu", "gelu", "gelu_pytorch_tanh"):
        raise UsageError(
            f"{tower}_config.hidden_act: expected quick_gelu, gelu or gelu_pytorch_tanh, "
            f"got {safe_text(name)}"
        )
    return str(name)


def epsilon(values: Mapping[str, Any], tower: str) -> float:
    """`layer_norm_eps` of a tower.

    Raises:
        UsageError: no small positive number.
    """
    value = values["layer_norm_eps"]
    if type(value) is not float or not 0 < value < 1:
        raise UsageError(
            f"{tower}_config.layer_norm_eps: expected a number from 0 to 1, got {safe_text(value)}"
        )
    return value


def preprocessing(
    folder: Path, default: Preprocess, side: int
) -> tuple[Preprocess, tuple[str, ...]]:
    """What `preprocessor_config.json` or `processor_config.json` says, with notes.

    Args:
        folder: where the model lies.
        default: what its kind of model has where no file says anything.
        side: of the image that the network reads, in pixels.

    Raises:
        UsageError: unreadable, or steps that clipguard does not make.
    """
    raw: Any = None
    name = ""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            raw = read_json(folder / name)
            raw = raw.get("image_processor", raw)
            break
    if not isinstance(raw, dict) or "image_mean" not in raw:
        return default, ()
    size, crop = raw.get("size"), raw.get("crop_size")
    shortest = isinstance(size, int) or (isinstance(size, dict) and "shortest_edge" in size)
    if raw.get("do_rescale", True) is False or raw.get("do_normalize", True) is False:
        raise UsageError(f"{name}: images that are not rescaled and normalised are not supported")
    told = {
        "mean": raw["image_mean"],
        "std": raw.get("image_std"),
        "interpolation": _filter(raw.get("resample", 3)),
        "resize_mode": "shortest" if shortest else "squash",
    }
    try:
        steps = preprocess_of(told)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    given = crop if shortest and raw.get("do_center_crop", True) else size
    sides = [*given.values()] if isinstance(given, dict) else [given]
    if all(value in (side, None) for value in sides):
        return steps, ()
    return steps, (f"CG110 {name} says {safe_text(given)} pixels; the network's {side} are used",)


def _filter(number: object) -> str:
    return RESAMPLE.get(number, "another") if isinstance(number, int) else "another"


def share(values: Mapping[str, Any], tower: str) -> int:
    """Width of one head of attention.

    Raises:
        UsageError: the width of the tower is no multiple of the number of heads.
    """
    width, heads = values["hidden_size"], values["num_attention_heads"]
    if type(width) is not int or type(heads) is not int or min(width, heads) < 1 or width % heads:
        raise UsageError(f"{tower}_config: hidden_size is no multiple of num_attention_heads")
    return width // heads


def tower_of(values: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """What open_clip's config says of a stack of layers; its defaults are left out.

    Raises:
        UsageError: numbers that do not fit each other.
    """
    share(values, tower)
    width, inner = values["hidden_size"], values["intermediate_size"]
    require_count(inner, f"{tower}_config.intermediate_size")
    eps, ratio = epsilon(values, tower), inner / width
    if int(width * ratio) < inner:  # open_clip multiplies and cuts; a rounded share may lose one
        ratio = math.nextafter(ratio, math.inf)
    found: dict[str, Any] = {"width": width, "layers": values["num_hidden_layers"]}
    if ratio != 4:
        found["mlp_ratio"] = ratio
    if eps != OPEN_CLIP_EPSILON:
        found["norm_kwargs"] = {"eps": eps}
    if activation(values, tower) == "gelu_pytorch_tanh":
        found["act_kwargs"] = {"approximate": "tanh"}
    return found


def one_activation(text: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """`quick_gelu` of open_clip's config, which holds for both towers.

    Raises:
        UsageError: the towers differ, or have one that open_clip does not have.
    """
    both = {activation(text, "text"), activation(vision, "vision")}
    if len(both) > 1:
        raise UsageError(f"hidden_act: expected one for both towers, got {', '.join(sorted(both))}")
    return {"quick_gelu": True} if both == {"quick_gelu"} else {}
