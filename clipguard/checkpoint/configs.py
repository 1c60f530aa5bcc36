"""Model configs that come with a checkpoint: read as data, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from clipguard.errors import UsageError
from clipguard.files import read_json_given
from clipguard.text_safety import safe_text

MAX_CONFIG_BYTES = 2**20
MAX_IMAGE_SIDE = 1024
MAX_NUMBER = 10**6
MAX_TOKENS = 1024
"""What a text tower may read at once: its mask, which no weight holds, grows with the square."""
MAX_LAYERS = 256
MAX_SCORES = 2**28
"""Attention scores of one image or text in one layer, which no weight holds: 1 GB of float32."""
TEXT_DEFAULTS = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
VISION_DEFAULTS = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
"""What open_clip assumes where a config says nothing."""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input; the defaults are OpenAI's.

    Attributes:
        mean: per channel, of pixels in [0, 1].
        std: per channel, positive.
        interpolation: `bicubic` or `bilinear`.
        resize_mode: `shortest` (then centre crop), `longest` (then pad) or `squash`.
    """

    mean: tuple[float, ...] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, ...] = open_clip.OPENAI_DATASET_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"


OPENAI = Preprocess()


@dataclass(frozen=True)
class ConfigFile:
    """A config file whose numbers are numbers within bounds.

    Attributes:
        model: open_clip model config.
        preprocess: its `preprocess_cfg`, None when it has none.
        notes: rule id and text of what was not honoured.
        siglip: whether the image tower is SigLIP's, which open_clip builds for few sizes only.
        kind: class of transformers that it is a config of, empty for open_clip's.
    """

    model: Mapping[str, Any]
    preprocess: Preprocess | None
    notes: tuple[str, ...]
    siglip: bool = False
    kind: str = ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UsageError: unreadable or no such thing; the message starts with the file's name.
    """
    raw = read_json_given(path, MAX_CONFIG_BYTES)
    if not isinstance(raw, dict):
        raise UsageError(f"{safe_text(path.name)}: expected a JSON object")
    return raw


def read_config(raw: Mapping[str, Any]) -> ConfigFile:
    """Read a model config, bare or as the `model_cfg` of an `open_clip_config.json`.

    Raises:
        UsageError: not such a config, or values that make no sense.
    """
    model = model_of(raw.get("model_cfg", raw))
    given = raw.get("preprocess_cfg") if "model_cfg" in raw else None
    if given is None:
        return ConfigFile(model, None, ())
    return ConfigFile(model, preprocess_of(given), _size_note(given, model))


def model_of(raw: object) -> dict[str, Any]:
    """An open_clip model config with its defaults filled in, and its numbers within bounds.

    Raises:
        UsageError: no such config, or values that make no sense.
    """
    if not isinstance(raw, dict):
        raise UsageError("model_cfg must be a JSON object")
    vision, text = raw.get("vision_cfg"), raw.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise UsageError("expected a model config with embed_dim, vision_cfg and text_cfg")
    vision, text = VISION_DEFAULTS | vision, TEXT_DEFAULTS | text
    side = vision["image_size"]
    if isinstance(side, list) and len(side) == 2 and side[0] == side[1]:
        vision["image_size"] = side[0]
    require_count(raw.get("embed_dim"), "embed_dim")
    require_count(vision["image_size"], "vision_cfg.image_size", MAX_IMAGE_SIDE)
    for key in TEXT_DEFAULTS:
        most = {"context_length": MAX_TOKENS, "layers": MAX_LAYERS}.get(key, MAX_NUMBER)
        require_count(text[key], f"text_cfg.{key}", most)
    _require_scores("text_cfg", text["heads"], text["context_length"])
    layers = vision["layers"]
    if isinstance(layers, list) and len(layers) != 4:
        raise UsageError(f"vision_cfg.layers: expected one number or four, got {len(layers)}")
    for count in layers if isinstance(layers, list) else [layers]:
        require_count(count, "vision_cfg.layers", MAX_LAYERS)
    require_count(vision["width"], "vision_cfg.width")
    if not isinstance(layers, list) and not vision.get("timm_model_name"):
        require_count(vision["patch_size"], "vision_cfg.patch_size")
        head = vision.get("head_width", 64)
        require_count(head, "vision_cfg.head_width")
        patches = (vision["image_size"] // vision["patch_size"]) ** 2
        _require_scores("vision_cfg", max(1, vision["width"] // head), patches)
    return clip_part({**raw, "vision_cfg": vision, "text_cfg": text})


def clip_part(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the CLIP inside a CoCa, which has a decoder for captions behind its towers."""
    if "multimodal_cfg" not in config:
        return config
    towers = {
        key: {name: value for name, value in config[key].items() if name != "output_tokens"}
        for key in ("vision_cfg", "text_cfg")
    }
    rest = {key: value for key, value in config.items() if key != "multimodal_cfg"}
    return {**rest, **towers, "custom_text": True}


def require_count(value: object, key: str, most: int = MAX_NUMBER) -> None:
    """Hold a value of a config to its bounds.

    Raises:
        UsageError: it is no whole number from 1 to `most`.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise UsageError(f"{key}: expected a whole number from 1 to {most}, got {safe_text(value)}")


def _require_scores(key: str, heads: int, places: int) -> None:
    if heads * places**2 > MAX_SCORES:
        raise UsageError(
            f"{key}: {heads} heads and {places} places make {heads * places**2:.1e} attention "
            f"scores, at most {MAX_SCORES:.1e} are computed"
        )


def preprocess_of(raw: object) -> Preprocess:
    """A `preprocess_cfg`, checked.

    Raises:
        UsageError: steps that clipguard does not make, or values that make no sense.
    """
    if not isinstance(raw, dict):
        raise UsageError("preprocess_cfg must be a JSON object")
    result = Preprocess(
        mean=_channels(raw, "mean", OPENAI.mean),
        std=_channels(raw, "std", OPENAI.std),
        interpolation=raw.get("interpolation") or OPENAI.interpolation,
        resize_mode=raw.get("resize_mode") or OPENAI.resize_mode,
    )
    if min(result.std) <= 0:
        raise UsageError(f"preprocess_cfg.std: expected positive numbers, got {result.std}")
    if result.interpolation not in ("bicubic", "bilinear"):
        raise UsageError(
            "preprocess_cfg.interpolation: expected bicubic or bilinear, "
            f"got {safe_text(result.interpolation)}"
        )
    if result.resize_mode not in ("shortest", "longest", "squash"):
        raise UsageError(
            "preprocess_cfg.resize_mode: expected shortest, longest or squash, "
            f"got {safe_text(result.resize_mode)}"
        )
    return result


def _channels(raw: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    values = raw.get(key)
    if values is None:
        return default
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise UsageError(f"preprocess_cfg.{key}: expected three numbers, got {safe_text(values)}")
    return tuple(float(value) for value in values)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MAX_NUMBER < value < MAX_NUMBER  # false for NaN, too


def _size_note(raw: Mapping[str, Any], model: Mapping[str, Any]) -> tuple[str, ...]:
    side = model["vision_cfg"]["image_size"]
    if raw.get("size") in (None, side, [side, side]):
        return ()
    return (
        f"CG110 preprocess_cfg.size is {safe_text(raw['size'])}, but the image tower reads "
        f"{side} pixels; {side} is used",
    )
