"""A real open_clip CLIP, small enough to build in a few milliseconds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor, nn

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


def tiny_config(**text: object) -> dict[str, Any]:
    """The tiny config with changes to its text tower."""
    config = copy.deepcopy(TINY)
    config["text_cfg"].update(text)
    return config


def network(config: dict[str, Any], seed: int = 0) -> CLIP:
    """Random weights and batch statistics that depend on `seed` only."""
    config = copy.deepcopy(config)
    build = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module = build(**config)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                # small enough that images reach the output through every ReLU
                module.running_mean = 0.02 * torch.randn_like(module.running_mean)
                module.running_var = 0.1 * torch.rand_like(module.running_var) + 0.05
                nn.init.ones_(module.weight)
    return made.eval().requires_grad_(False)


def state_of(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Its state dict."""
    return network(config, seed).state_dict()


def write_config(path: Path, config: dict[str, Any], **preprocess: object) -> Path:
    """Write a bare model config, or an `open_clip_config.json` when preprocessing is given."""
    content = {"model_cfg": config, "preprocess_cfg": preprocess} if preprocess else config
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
