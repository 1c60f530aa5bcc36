"""The bundled CLIPs: ordinary open_clip models, small enough to ship in the wheel."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from clipguard.bundled import effnet
from clipguard.resources import asset

TEXT = {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "nano-rn": {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 64, "layers": [2, 2, 2, 2], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "nano-vit": {
        "embed_dim": 256,
        "vision_cfg": {
            "image_size": 64,
            "layers": 4,
            "width": 128,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": TEXT,
    },
    "effnet": effnet.CONFIG,
}

BASES = {
    "effnet": "effnet",
    "nano-rn": "nano-rn",
    "nano-rn-1": "nano-rn",
    "nano-vit": "nano-vit",
    "nano-vit-1": "nano-vit",
}
"""Bundled model to its architecture: models of one architecture differ by their training seed."""

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}",
    "a drawing of a {}",
    "an image with a {} in it",
    "a bright photo of the {}",
    "a small {}",
    "{}",
)

ROWS = "token_embedding.weight"
ROW_STD = 0.02


def class_names() -> tuple[str, ...]:
    """The bundled list of 100 class names, in the order of the probe set's labels."""
    return tuple(asset("classnames.txt").read_text(encoding="utf-8").split())


def _untrained_rows(count: int, width: int, seed: int) -> Tensor:
    # RandomState is frozen by NumPy's stability policy, so these rows are the same everywhere.
    drawn = np.random.RandomState(seed).standard_normal((count, width)).astype(np.float32)
    return torch.from_numpy(drawn) * ROW_STD


def pack_nano(
    state: dict[str, Tensor], vocabulary: list[int], name: str, seed: int, to: Path
) -> None:
    """Write a trained model: float16 weights, only the token rows in `vocabulary`.

    The image tower of effnet is left out: it is never trained here, and comes from its package.

    Args:
        state: the network's state dict.
        vocabulary: token ids whose embedding was trained, ascending.
        name: key of `CONFIGS`.
        seed: training seed; also regenerates the other token rows.
        to: safetensors file to write.
    """
    if name == "effnet":
        state = {k: v for k, v in state.items() if not k.startswith(effnet.TRUNK)}
    tensors = {key: value.half().contiguous() for key, value in state.items() if key != ROWS}
    tensors |= {k: v for k, v in state.items() if not v.is_floating_point()}
    tensors[ROWS] = state[ROWS][vocabulary].half()
    tensors["token_ids"] = torch.tensor(vocabulary, dtype=torch.int32)
    tensors.pop("attn_mask", None)
    to.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"architecture": name, "seed": str(seed), "config": json.dumps(CONFIGS[name])}
    save_file({k: v.contiguous() for k, v in tensors.items()}, to, metadata=metadata)


def load_state(name: str) -> dict[str, Tensor]:
    """State dict of the bundled model `name`, float32, every token row present.

    Raises:
        KeyError: no such model.
        UsageError: the package with effnet's image tower is missing.
    """
    config = CONFIGS[BASES[name]]
    trunk = effnet.trunk_state() if BASES[name] == "effnet" else {}
    with safe_open(asset(f"{name}.safetensors"), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        seed = int(file.metadata()["seed"])
    state = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    text = config["text_cfg"]
    rows = _untrained_rows(text["vocab_size"], text["width"], seed)
    rows[state.pop("token_ids").long()] = state[ROWS]
    return state | trunk | {ROWS: rows}


def nano_network(name: str) -> CLIP:
    """The bundled model `name` as an open_clip network in evaluation mode.

    Raises:
        KeyError: no such model.
        UsageError: see `load_state`.
    """
    network = CLIP(**CONFIGS[BASES[name]])
    network.load_state_dict(load_state(name), strict=True)
    return network.eval().requires_grad_(False)


def image_side(network: CLIP) -> int:
    """Side of its input images in pixels; open_clip keeps a number or a pair, by architecture."""
    side = network.visual.image_size
    return int(side[0]) if isinstance(side, tuple) else int(side)


def nano_tokenizer(network: CLIP) -> open_clip.SimpleTokenizer:
    """open_clip's ordinary BPE tokenizer with the context length of `network`."""
    return _tokenizer(network.context_length)


@cache  # reading the vocabulary takes a tenth of a second, and some need it at every step
def _tokenizer(context_length: int) -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=context_length)


def normalise(images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] to the units that the bundled models were trained with."""
    mean, std = (
        torch.tensor(v, device=images.device).view(3, 1, 1)
        for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def encode_captions(network: CLIP, tokens: Tensor) -> Tensor:
    """Unit text embeddings (B, D), differentiable in the weights, for training.

    Cut at the last end-of-text, which is exact because the tower is causal, and several times
    cheaper than all positions.

    Args:
        network: a nano CLIP.
        tokens: (B, L) token ids; end-of-text is the highest id of this tokenizer.
    """
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    x = network.token_embedding(tokens[:, :length]) + network.positional_embedding[:length]
    x = network.transformer(x, attn_mask=network.attn_mask[:length, :length])
    x = network.ln_final(x)[torch.arange(len(x)), ends]
    return functional.normalize(x @ network.text_projection, dim=-1)
