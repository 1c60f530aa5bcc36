"""Tiny models of transformers, saved by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from other_libraries import TEXTS, Writer, Written, clip_tokens, of_transformers
from safetensors.torch import load_file

TOWER = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
}
SHARD = "700KB"


def tiny_clip(**changes: Any) -> Any:
    """A CLIPModel with random weights; changes are to both towers."""
    from transformers import CLIPConfig, CLIPModel

    both = {**TOWER, **changes}
    config = CLIPConfig(
        text_config={**both, "vocab_size": 49408},
        vision_config={**both, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    return _made(CLIPModel, config)


def tiny_siglip(**changes: Any) -> Any:
    """A SiglipModel with random weights; changes are to both towers."""
    from transformers import SiglipConfig, SiglipModel

    both = {**TOWER, **changes}
    config = SiglipConfig(
        text_config={**both, "vocab_size": 60, "max_position_embeddings": 16},
        vision_config={**both, "image_size": 32, "patch_size": 16},
    )
    return _made(SiglipModel, config)


def _made(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms are all alike at first
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def save(folder: Path, model: Any, form: str) -> Path:
    """Write a model; `form` is folder, shards, bin, bin shards, file or wrapped."""
    model.save_pretrained(folder, **({"max_shard_size": SHARD} if "shards" in form else {}))
    if form in ("folder", "shards"):
        return folder
    if form == "bin shards":
        return _as_pickles(folder)
    weights = folder / "model.safetensors"
    if form == "file":
        return weights
    weights.unlink()
    if form == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        return folder
    state = {f"module.clip.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"model": state, "step": 3}, folder / "step3.pt")
    return folder / "step3.pt"


def clip_folder(form: str = "folder", dtype: Any = torch.float32, **changes: Any) -> Writer:
    """A CLIPModel as transformers saves it."""

    def write(folder: Path) -> Written:
        model = tiny_clip(**changes)
        wanted = of_transformers(folder, model, 32, clip_tokens(), None)
        path = save(folder, model.to(dtype), form)
        return Written(path, wanted.images, wanted.texts)

    return write


def siglip_folder(form: str = "folder", **changes: Any) -> Writer:
    """A SiglipModel as transformers saves it, and a tokenizer of its own."""

    def write(folder: Path) -> Written:
        model = tiny_siglip(**changes)
        wanted = of_transformers(folder, model, 32, write_tokenizer(folder), None)
        path = save(folder, model, form)
        return Written(path, wanted.images, wanted.texts)

    return write


def write_tokenizer(folder: Path) -> torch.Tensor:
    """A tokenizer of words, saved by transformers; returns the (T, L) ids of `TEXTS`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "<pad>", *sorted({w for text in TEXTS for w in text.split()})[:-2]]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    ids = fast(TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    return ids["input_ids"]


def _as_pickles(folder: Path) -> Path:
    """The same shards as transformers wrote them before safetensors."""
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    for old in set(index["weight_map"].values()):
        new = old.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        torch.save(load_file(folder / old), folder / new)
        (folder / old).unlink()
        index["weight_map"] = {k: new if v == old else v for k, v in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").unlink()
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    return folder


def adapted_by_peft(model: Any, *layers: str, **settings: Any) -> Any:
    """The model with a LoRA of peft on some layers, which changes what they compute."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, lora_alpha=3, target_modules=[*layers], **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = get_peft_model(model, config).eval()
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # nothing at first
                parameter.data += 0.1 * torch.randn_like(parameter)
    return adapted.requires_grad_(False)


def lora_folder(*layers: str, merge: bool = False, **settings: Any) -> Writer:
    """An adapter for a CLIPModel in a folder of its own, or merged by peft itself."""

    def write(folder: Path) -> Written:
        model = tiny_clip()
        base = save(folder / "base", model, "folder")
        adapted = adapted_by_peft(model, *layers, **settings)
        wanted = of_transformers(folder, adapted.base_model.model, 32, clip_tokens(), None)
        if merge:
            adapted.merge_and_unload().save_pretrained(folder / "merged")
            return Written(folder / "merged", wanted.images, wanted.texts)
        adapted.save_pretrained(folder / "adapter")
        return Written(folder / "adapter", wanted.images, wanted.texts, base=base)

    return write
