"""Configs of transformers are data: read with bounds, one line for what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import write_config
from transformers_models import clip_folder, siglip_folder, tiny_clip

from clipguard.checkpoint.architectures import architecture_from_file
from clipguard.checkpoint.configs import Preprocess
from clipguard.checkpoint.load import load_checkpoint
from clipguard.errors import UsageError
from clipguard.model.open_clip import build_model

BASE: dict[str, Any] = {"model_type": "clip", "text_config": {}, "vision_config": {}}
STEPS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "resample": 2}


def put(folder: Path, **changes: Any) -> Path:
    return write_config(folder / "config.json", {**BASE, **changes})


def test_an_empty_config_is_the_published_clip(tmp_path: Path):
    assert architecture_from_file(put(tmp_path)).name == "ViT-B-32-quickgelu"


def test_old_configs_say_it_twice_and_the_second_wins(tmp_path: Path):
    path = put(
        tmp_path,
        text_config={"hidden_size": 7},
        text_config_dict={"hidden_size": 768, "num_attention_heads": 12},
        vision_config_dict={"hidden_act": "quick_gelu"},
    )
    assert architecture_from_file(path).config["text_cfg"]["width"] == 768


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text_config": [1]}, "text_config"),
        ({"text_config": {"hidden_size": "8"}}, "text_config"),
        (
            {"text_config": {"hidden_size": 10**30, "num_attention_heads": 1}},
            "text_config|text_cfg",
        ),
        ({"text_config": {"num_attention_heads": 0}}, "text_config"),
        ({"text_config": {"num_attention_heads": 5}}, "num_attention_heads"),
        ({"text_config": {"max_position_embeddings": 30_000}}, "context_length"),
        ({"text_config": {"intermediate_size": 0}}, "intermediate_size"),
        ({"text_config": {"intermediate_size": 2.5}}, "intermediate_size"),
        ({"model_type": ["clip"]}, "embed_dim"),
        ({"text_config": {"layer_norm_eps": float("nan")}}, "layer_norm_eps"),
        ({"text_config": {"layer_norm_eps": 1}}, "layer_norm_eps"),
        ({"text_config": {"hidden_act": "relu\x1b[31m"}}, "hidden_act"),
        ({"text_config": {"hidden_act": ["gelu"]}}, "hidden_act"),
        ({"text_config": {"hidden_act": "gelu"}}, "one for both"),
        ({"text_config": {"eos_token_id": [1, 2]}}, "eos_token_id"),
        ({"vision_config": {"image_size": 10**9}}, "image_size"),
        ({"vision_config": {"patch_size": [16, 16]}}, "patch_size"),
        ({"vision_config": {"num_channels": 4}}, "num_channels"),
        ({"projection_dim": -1}, "embed_dim"),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "vision_use_head"),
        ({"model_type": "siglip", "text_config": {"projection_size": 3}}, "projection_size"),
        ({"model_type": "siglip", "vision_config": {"num_attention_heads": {}}}, "vision_config"),
    ],
)
def test_values_that_make_no_sense_are_one_line(
    changes: dict[str, Any], says: str, tmp_path: Path, one_line
):
    with one_line(UsageError, rf"^config\.json: .*({says})"):
        architecture_from_file(put(tmp_path, **changes))


@pytest.mark.parametrize(
    ("steps", "mode", "noted"),
    [
        ({"size": 224, "crop_size": 224}, "shortest", False),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
            "shortest",
            False,
        ),
        ({"size": {"height": 224, "width": 224}, "do_center_crop": False}, "squash", False),
        ({"size": {"height": 96, "width": 96}}, "squash", True),
        ({"size": {"shortest_edge": [1]}, "crop_size": [224]}, "shortest", True),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_preprocessing_is_honoured(
    steps: dict[str, Any], mode: str, noted: bool, nested: bool, tmp_path: Path
):
    told = {**STEPS, **steps}
    if nested:
        write_config(tmp_path / "processor_config.json", {"image_processor": told})
    else:
        write_config(tmp_path / "preprocessor_config.json", told)
    found = architecture_from_file(put(tmp_path))
    assert found.preprocess == Preprocess((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), "bilinear", mode)
    assert any("pixels" in note for note in found.notes) is noted


@pytest.mark.parametrize(
    "change", [{"resample": 1}, {"image_std": [0, 1, 1]}, {"do_rescale": False}, {"resample": []}]
)
def test_steps_that_clipguard_does_not_make_are_one_line(
    change: dict[str, Any], tmp_path: Path, one_line
):
    write_config(tmp_path / "preprocessor_config.json", {**STEPS, **change})
    with one_line(UsageError, r"config\.json: preprocessor_config\.json"):
        architecture_from_file(put(tmp_path))


def test_a_siglip_says_nothing_of_images_and_gets_its_own(tmp_path: Path):
    steps = architecture_from_file(put(tmp_path, model_type="siglip")).preprocess
    assert steps == Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash")


def test_a_siglip_without_its_tokenizer_is_one_line(tmp_path: Path, one_line):
    siglip_folder()(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with one_line(UsageError, r"tokenizer\.json"):
        build_model(load_checkpoint(tmp_path), torch.device("cpu"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[" * 10**5,
        json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"<pad>": 1000}}}),
        json.dumps({"version": "1.0", "model": {"type": "Unigram", "vocab": [["a", "b"]]}}),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_one_line(content: str, tmp_path: Path, one_line):
    siglip_folder()(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with one_line(UsageError, r"tokenizer\.json"):
        build_model(load_checkpoint(tmp_path), torch.device("cpu"))


def test_an_open_clip_config_of_another_network_does_not_fit(tmp_path: Path):
    clip_folder()(tmp_path)
    with pytest.raises(UsageError, match="do not fit ViT-B-32"):
        load_checkpoint(tmp_path, arch="ViT-B-32")


def test_a_layer_of_which_a_part_is_missing_does_not_load(tmp_path: Path):
    model = tiny_clip()
    state = model.state_dict()
    del state["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    model.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"layers\.1\.self_attn"):
        load_checkpoint(tmp_path)
