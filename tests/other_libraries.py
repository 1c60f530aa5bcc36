"""Checkpoints as other libraries write them, at tiny sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_clip import network, write_config
from torch import Tensor, nn
from torch.nn import functional

TEXTS = ["a photo of a cat", "two dogs", "x", "a very long sentence about nothing at all"]
VIT: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 2},
}
RESNET: dict[str, Any] = {
    **VIT,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
}
State = dict[str, Tensor]


@dataclass(frozen=True)
class Written:
    """A checkpoint and what its own library makes of some inputs.

    Attributes:
        path: file or folder.
        images: (N, D) unit embeddings of `pictures`.
        texts: (T, D) unit embeddings of `TEXTS`.
        arch: for `--arch`, None where the file or what lies beside it tells.
        base: for `--lora-base`.
    """

    path: Path
    images: Tensor
    texts: Tensor
    arch: str | None = None
    base: Path | None = None


Writer = Callable[[Path], Written]


def pictures(side: int) -> Tensor:
    """(3, 3, S, S) normalised noise."""
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def of_open_clip(
    path: Path, model: nn.Module, config: dict[str, Any], tokens: Tensor, arch: str | None
) -> Written:
    """What open_clip's own `encode_image` and `encode_text` give."""
    made: Any = model
    images = made.encode_image(pictures(config["vision_cfg"]["image_size"]))
    return Written(path, _unit(images), _unit(made.encode_text(tokens)), arch)


@torch.no_grad()
def of_transformers(path: Path, model: Any, side: int, tokens: Tensor, arch: str | None) -> Written:
    """What transformers' own methods give."""
    images = model.get_image_features(pixel_values=pictures(side))
    texts = model.get_text_features(input_ids=tokens)
    images, texts = (getattr(part, "pooler_output", part) for part in (images, texts))
    return Written(path, _unit(images), _unit(texts), arch)


def _unit(rows: Tensor) -> Tensor:
    return functional.normalize(rows.float(), dim=-1)


def clip_tokens(length: int = 77) -> Tensor:
    """(T, L) ids of `TEXTS`, by CLIP's tokenizer."""
    import open_clip

    return open_clip.SimpleTokenizer(context_length=length)(TEXTS)


def saved(folder: Path, content: object, name: str = "model.pt", **how: Any) -> Path:
    """A file of torch.save, or of safetensors if it is called so."""
    if name.endswith(".safetensors"):
        state: Any = content
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / name)
    else:
        torch.save(content, folder / name, **how)
    return folder / name


def plain(
    change: Callable[[State], object], name: str = "model.pt", arch: bool = True, **how: Any
) -> Writer:
    """A tiny ViT of open_clip, its state dict wrapped by `change`."""

    def write(folder: Path) -> Written:
        model = network(VIT)
        config = str(write_config(folder / "tiny.json", VIT)) if arch else None
        path = saved(folder, change(dict(model.state_dict())), name, **how)
        return of_open_clip(path, model, VIT, clip_tokens(), config)

    return write


def whole(
    change: Callable[[nn.Module, Path], Path], config: dict[str, Any] = VIT, length: int = 77
) -> Writer:
    """A tiny network of open_clip, saved by `change` from the module itself."""

    def write(folder: Path) -> Written:
        model = network(config)
        arch = str(write_config(folder / "tiny.json", config))
        tokens = clip_tokens(length)
        wanted = of_open_clip(folder, model, config, tokens, arch)
        path = change(copy.deepcopy(model), folder)
        return Written(path, wanted.images, wanted.texts, arch)

    return write
