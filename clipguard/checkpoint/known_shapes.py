"""Which architecture a file's tensors may belong to, told without torch and without open_clip.

A few common ones only. Which one it is, is decided when the file is loaded, see `architectures`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipguard.errors import UsageError
from clipguard.files import read_json_given
from clipguard.text_safety import safe_text

Shapes = Mapping[str, tuple[int, ...]]
MAX_CONFIG_BYTES = 2**20
TRANSFORMERS = {
    # width, patch and layers of the image tower; width and layers of the text tower
    (768, 32, 12, 512, 12): "ViT-B-32",
    (768, 16, 12, 512, 12): "ViT-B-16",
    (1024, 14, 24, 768, 12): "ViT-L-14",
    (1024, 16, 24, 768, 12): "ViT-L-16",
    (1280, 14, 32, 1024, 24): "ViT-H-14",
    (1408, 14, 40, 1024, 24): "ViT-g-14",
    (1664, 14, 48, 1280, 32): "ViT-bigG-14",
}
RESNETS: dict[tuple[tuple[int, ...], int, int], str] = {
    # blocks of the four stages, width of the first, and width of the text tower
    ((3, 4, 6, 3), 64, 512): "RN50",
    ((3, 4, 23, 3), 64, 512): "RN101",
    ((4, 6, 10, 6), 80, 640): "RN50x4",
    ((6, 8, 18, 8), 96, 768): "RN50x16",
    ((3, 15, 36, 10), 128, 1024): "RN50x64",
}


@dataclass(frozen=True)
class Guess:
    """What architecture it may be.

    Attributes:
        name: as open_clip calls it.
        how: what told it.
    """

    name: str
    how: str


def guess(path: Path, shapes: Shapes) -> Guess | None:
    """What a config beside the weights says, else what the shapes say; None if they are not known.

    Args:
        path: the file or folder.
        shapes: of the weights, under any prefix.
    """
    return _from_config(path) if path.is_dir() else _from_shapes(shapes)


def _from_config(folder: Path) -> Guess | None:
    for name in ("open_clip_config.json", "config.json"):
        try:
            config = read_json_given(folder / name, MAX_CONFIG_BYTES)
        except UsageError:
            continue
        if isinstance(config, dict):
            told = config.get("model_type") or _tower(config.get("model_cfg"))
            return Guess(safe_text(told or "as the config says"), name)
    return None


def _tower(config: Any) -> str:
    vision = config.get("vision_cfg") if isinstance(config, dict) else None
    told = vision.get("timm_model_name") if isinstance(vision, dict) else None
    return str(told or "")


def _from_shapes(shapes: Shapes) -> Guess | None:
    first = next((key for key in shapes if key.endswith("visual.conv1.weight")), None)
    if first is None:
        return None
    root = first.removesuffix("visual.conv1.weight")
    known = {key.removeprefix(root): shape for key, shape in shapes.items()}
    name = _transformer(known) or _resnet(known)
    return Guess(name, "shapes; the activation is told when it is loaded") if name else None


def _transformer(known: Shapes) -> str | None:
    conv, text = known["visual.conv1.weight"], _text_width(known)
    if len(conv) != 4:
        return None
    layers = _count(known, r"visual\.transformer\.resblocks\.(\d+)\.")
    words = _count(known, r"(?:text\.)?transformer\.resblocks\.(\d+)\.")
    name = TRANSFORMERS.get((conv[0], conv[3], layers, text, words))
    positions = known.get("visual.positional_embedding", (0,))[0]
    side = round(max(0, positions - 1) ** 0.5) * conv[3]
    return f"{name}-{side}" if name and side not in (0, 224) else name


def _resnet(known: Shapes) -> str | None:
    stages = tuple(_count(known, rf"visual\.layer{i}\.(\d+)\.") for i in (1, 2, 3, 4))
    width = known.get("visual.layer1.0.conv1.weight", (0,))[0]
    return RESNETS.get((stages, width, _text_width(known)))


def _text_width(known: Shapes) -> int:
    for key in ("token_embedding.weight", "text.token_embedding.weight"):
        if len(known.get(key, ())) == 2:
            return known[key][1]
    return 0


def _count(known: Shapes, pattern: str) -> int:
    """How many numbers the group of `pattern` takes among the names."""
    return len({found[1] for key in known if (found := re.match(pattern, key))})
