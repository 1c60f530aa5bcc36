"""Files of the libraries themselves: the same images and texts give the same embeddings."""

from __future__ import annotations

import argparse
from collections import OrderedDict, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from other_libraries import (
    RESNET,
    TEXTS,
    VIT,
    Writer,
    Written,
    clip_tokens,
    of_open_clip,
    pictures,
    plain,
    saved,
    whole,
)
from tiny_clip import network, write_config
from torch import nn
from transformers_models import adapted_by_peft, clip_folder, lora_folder, siglip_folder

from clipguard.checkpoint.load import load_checkpoint
from clipguard.model.open_clip import build_model

LEGACY = {"_use_new_zipfile_serialization": False}


def before(prefix: str) -> Any:
    """A change of a state dict: the same tensors under longer names."""
    return lambda state: {f"{prefix}{key}": tensor for key, tensor in state.items()}


def as_type(dtype: torch.dtype) -> Any:
    return lambda state: {key: tensor.to(dtype) for key, tensor in state.items()}


def without(*keys: str) -> Any:
    return lambda state: {key: tensor for key, tensor in state.items() if key not in keys}


def lightning_file(model: nn.Module, folder: Path) -> Path:
    """What Lightning's own trainer saves."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"args": argparse.Namespace(lr=0.1), "out": "x"})
            self.model = model
            self.loss_scale = nn.Parameter(torch.ones(3))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.0, weight_decay=0.0)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.loss_scale.sum()

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_steps=1, enable_checkpointing=False, accelerator="cpu", **quiet)
    trainer.fit(Module(), [torch.ones(1)])
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def averaged(model: nn.Module, folder: Path) -> Path:
    return saved(folder, torch.optim.swa_utils.AveragedModel(model).state_dict())


def timm_mean(model: nn.Module, folder: Path) -> Path:
    from timm.utils.model_ema import ModelEmaV2

    mean = ModelEmaV2(model).state_dict()
    return saved(folder, {"epoch": 1, "arch": "x", "state_dict_ema": mean})


def data_parallel(model: nn.Module, folder: Path) -> Path:
    return saved(folder, {"state_dict": nn.DataParallel(model).state_dict(), "epoch": 1})


def compiled(model: nn.Module, folder: Path) -> Path:
    return saved(folder, torch.compile(model).state_dict())  # type: ignore[attr-defined]


def compiled_tower(model: Any, folder: Path) -> Path:
    model.visual = torch.compile(model.visual)
    return saved(folder, model.state_dict())


def traced(model: Any, folder: Path) -> Path:
    """What open_clip's `trace_model` makes, which itself fails where a size is a pair."""
    side = model.visual.image_size
    images = torch.ones(1, 3, *(side if isinstance(side, tuple) else (side, side)))
    tokens = torch.zeros(1, model.context_length, dtype=torch.int)
    inputs = {"encode_image": (images,), "encode_text": (tokens,)}
    torch.jit.save(torch.jit.trace_module(model, inputs), folder / "model.pt")
    return folder / "model.pt"


def safetensors_model(model: nn.Module, folder: Path) -> Path:
    from safetensors.torch import save_model

    save_model(model, str(folder / "model.safetensors"))
    return folder / "model.safetensors"


def parameters_only(model: nn.Module, folder: Path) -> Path:
    return saved(folder, OrderedDict(model.named_parameters()))


def with_optimizer(model: nn.Module, folder: Path) -> Path:
    """What open_clip's own training loop saves."""
    for parameter in model.parameters():
        parameter.requires_grad_(True).grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    scaler = torch.amp.GradScaler(enabled=False)
    content = {"epoch": 1, "name": "run", "state_dict": model.state_dict()}
    more = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
    for parameter, value in zip(model.parameters(), network(VIT).parameters(), strict=True):
        parameter.data.copy_(value)  # a step without gradients still decays
    return saved(folder, content | more)


def at_another_size(model: nn.Module, folder: Path) -> Path:
    """The config beside it says another image size than the weights are for."""
    other = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "image_size": 32}}
    write_config(folder / "tiny.json", other)
    return saved(folder, model.state_dict())


def resnet_at_another_size(model: nn.Module, folder: Path) -> Path:
    other = {**RESNET, "vision_cfg": {**RESNET["vision_cfg"], "image_size": 32}}
    write_config(folder / "tiny.json", other)
    return saved(folder, model.state_dict())


def coca(folder: Path) -> Written:
    """A CoCa of open_clip, in the folder that open_clip pushes to a hub."""
    text = {**VIT["text_cfg"], "context_length": 76, "embed_cls": True, "output_tokens": True}
    vision = {**VIT["vision_cfg"], "attentional_pool": True, "attn_pooler_queries": 4}
    heads = {"attn_pooler_heads": 8, "output_tokens": True}
    decoder = {"context_length": 76, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    config = {**VIT, "text_cfg": text, "vision_cfg": {**vision, **heads}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CoCa(**config, multimodal_cfg=decoder).eval()
        nn.init.zeros_(model.text_decoder.text_projection)  # open_clip leaves it as it comes
    told = {**config, "multimodal_cfg": decoder, "custom_text": True}
    write_config(folder / "open_clip_config.json", told, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    saved(folder, model.state_dict(), "open_clip_pytorch_model.bin")
    return of_open_clip(folder, model, config, clip_tokens(76), None)


def pushed(folder: Path) -> Written:
    """The folder that open_clip pushes to a hub: config, safetensors and a pickle."""
    model = network(VIT)
    write_config(folder / "open_clip_config.json", VIT, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    saved(folder, model.state_dict(), "open_clip_model.safetensors")
    saved(folder, model.state_dict(), "open_clip_pytorch_model.bin")
    return of_open_clip(folder, model, VIT, clip_tokens(), None)


def open_clip_lora(folder: Path) -> Written:
    """An adapter for a network of open_clip, whose base is a plain state dict."""
    model = network(VIT)
    arch = str(write_config(folder / "tiny.json", VIT))
    base = saved(folder, {"state_dict": before("module.")(model.state_dict())}, "base.pt")
    adapted = adapted_by_peft(model, "c_fc", "c_proj")
    adapted.save_pretrained(folder / "adapter")
    wanted = of_open_clip(folder / "adapter", adapted.base_model.model, VIT, clip_tokens(), arch)
    return replace(wanted, base=base)


OPEN_CLIP: dict[str, Writer] = {
    **{f"protocol {p}": plain(dict, pickle_protocol=p) for p in (2, 3, 4, 5)},
    **{f"legacy, protocol {p}": plain(dict, pickle_protocol=p, **LEGACY) for p in (2, 4)},
    "safetensors": plain(dict, "model.safetensors"),
    "safetensors of a module": whole(safetensors_model),
    "float16": plain(as_type(torch.float16)),
    "bfloat16": plain(as_type(torch.bfloat16), "model.safetensors"),
    "float64": plain(as_type(torch.float64)),
    "parameters": whole(parameters_only),
    "open_clip training": whole(with_optimizer),
    "open_clip folder": pushed,
    "data parallel": whole(data_parallel),
    "compiled": whole(compiled),
    "compiled tower": whole(compiled_tower),
    "averaged by torch": whole(averaged),
    "averaged by timm": whole(timm_mean),
    "lightning": whole(lightning_file),
    "traced by torch": whole(traced),
    "deepspeed": plain(lambda s: {"module": s, "ds_version": "0.14", "optimizer": None}),
    "net": plain(lambda s: {"net": s, "lr": np.float64(0.1)}),
    "state dict in model": plain(lambda s: {"model": {"state_dict": s}}),
    "model in state dict": plain(lambda s: {"state_dict": {"model": {"module": s}}}),
    "only ema": plain(lambda s: {"model_ema": s, "history": np.arange(3.0)}),
    "plain before ema": plain(
        lambda s: {"ema": {k: t + 1 for k, t in s.items()}, "model": s, "seen": defaultdict(int)}
    ),
    "prefix clip": plain(before("clip.")),
    "prefix net": plain(before("net.")),
    "nested prefixes": plain(before("module._orig_mod.model.clip_model.")),
    "classifier beside": plain(lambda s: before("m.")(s) | {"head.weight": torch.ones(3, 8)}),
    "logit bias": plain(lambda s: s | {"logit_bias": torch.tensor(-10.0)}),
    "vector scale": plain(lambda s: {**s, "logit_scale": s["logit_scale"][None]}),
    "no logit scale": plain(without("logit_scale")),
    "counters": plain(lambda s: s | {"n_iter": torch.tensor(3), "seen": torch.tensor([True])}),
    "coca": coca,
    "custom text": whole(
        lambda model, folder: saved(folder, model.state_dict()), {**VIT, "custom_text": True}
    ),
    "ResNet": whole(lambda model, folder: saved(folder, model.state_dict()), RESNET),
    "ResNet, traced": whole(traced, RESNET),
    "another image size": whole(
        at_another_size, {**VIT, "vision_cfg": {**VIT["vision_cfg"], "image_size": 64}}
    ),
    "ResNet at another image size": whole(resnet_at_another_size, RESNET),
}
TRANSFORMERS: dict[str, Writer] = {
    "clip folder": clip_folder(),
    "clip .bin": clip_folder(form="bin"),
    "clip sharded": clip_folder(form="shards"),
    "clip sharded .bin": clip_folder(form="bin shards"),
    "clip file": clip_folder(form="file"),
    "clip with gelu": clip_folder(hidden_act="gelu"),
    "clip with tanh": clip_folder(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-3),
    "clip, other widths": clip_folder(intermediate_size=96, num_attention_heads=4),
    "clip in a wrapper": clip_folder(form="wrapped"),
    "clip in float16": clip_folder(dtype=torch.float16),
    "siglip folder": siglip_folder(),
    "siglip .bin": siglip_folder(form="bin"),
    "siglip sharded": siglip_folder(form="shards"),
    "siglip with gelu": siglip_folder(hidden_act="gelu", intermediate_size=96),
}
PEFT: dict[str, Writer] = {
    "peft": lora_folder("q_proj", "v_proj", "fc1", "visual_projection"),
    "peft, stabilised": lora_folder("k_proj", "out_proj", use_rslora=True),
    "peft, merged": lora_folder("q_proj", "fc2", merge=True),
    "peft on open_clip": open_clip_lora,
}
ALL = OPEN_CLIP | TRANSFORMERS | PEFT


@pytest.mark.filterwarnings("ignore")  # other libraries' own
@pytest.mark.parametrize("kind", ALL)
def test_the_embeddings_are_those_of_the_library_that_wrote_it(kind: str, tmp_path: Path):
    wanted = ALL[kind](tmp_path)
    loaded = load_checkpoint(wanted.path, arch=wanted.arch, lora_base=wanted.base)
    model = build_model(loaded, torch.device("cpu"))
    side = model.image_size
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std)
    )
    images = model.encode_image(pictures(side) * std + mean)
    close = 2e-2 if "bfloat16" in kind else 2e-3 if "float16" in kind else 1e-5
    torch.testing.assert_close(images, wanted.images, atol=close, rtol=0)
    torch.testing.assert_close(model.encode_text(TEXTS), wanted.texts, atol=close, rtol=0)
