"""An adapter is merged as peft does it, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from other_libraries import VIT, saved
from tiny_clip import state_of, write_config
from torch import Tensor

from clipguard.checkpoint.load import load_checkpoint
from clipguard.checkpoint.lora import merged, scale_of
from clipguard.errors import RefusedError, UsageError

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
LAYER = "base_model.model.visual.transformer.resblocks.0.mlp.c_fc"


def adapter(**changes: Tensor) -> dict[str, Tensor]:
    return {
        f"{LAYER}.lora_A.weight": torch.ones(2, 64),
        **{f"{LAYER}.lora_B.weight": torch.ones(256, 2)},
        **changes,
    }


def test_the_weight_of_an_adapter_follows_from_its_rank():
    assert scale_of(CONFIG) == (2.0, 2)
    assert scale_of({**CONFIG, "r": 4, "use_rslora": True}) == (2.0, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "LOHA"},
        {"use_dora": True},
        {"rank_pattern": {"(a+)+$": 3}},
        {"modules_to_save": ["visual"]},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"r": 0},
        {"r": True},
        {"lora_alpha": float("nan")},
        {"lora_alpha": "4"},
    ],
)
def test_another_kind_of_adapter_is_one_line(change: dict[str, Any], one_line):
    with one_line(UsageError, "adapter_config"):
        scale_of({**CONFIG, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"extra": torch.ones(1)},
        {f"{LAYER}.lora_B.weight": torch.ones(256, 3)},
        {f"{LAYER}.lora_B.weight": torch.ones(255, 2)},
        {"no.layer.lora_A.weight": torch.ones(2, 64), "no.layer.lora_B.weight": torch.ones(256, 2)},
        {f"{LAYER}.lora_magnitude_vector": torch.ones(256)},
    ],
)
def test_a_tensor_that_fits_no_layer_is_one_line(change: dict[str, Tensor], one_line):
    base = {f"{LAYER.removeprefix('base_model.model.')}.weight": torch.zeros(256, 64)}
    merged(base, adapter(), CONFIG)
    with one_line(UsageError, "--lora-base"):
        merged(base, adapter(**change), CONFIG)


class TestFolder:
    @pytest.fixture
    def base(self, tmp_path: Path) -> Path:
        return saved(tmp_path, state_of(VIT), "base.pt")

    @pytest.fixture
    def given(self, tmp_path: Path) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir()
        saved(folder, adapter(), "adapter_model.safetensors")
        write_config(folder / "adapter_config.json", CONFIG)
        return folder

    def test_the_record_names_both_files(self, given: Path, base: Path, tmp_path: Path):
        arch = str(write_config(tmp_path / "tiny.json", VIT))
        loaded = load_checkpoint(given, arch=arch, lora_base=base)
        alone = load_checkpoint(base, arch=arch)
        key = f"{LAYER.removeprefix('base_model.model.')}.weight"
        torch.testing.assert_close(loaded.state[key], alone.state[key] + 4)
        assert any(alone.record.sha256 in note for note in loaded.record.notes)
        assert loaded.record.sha256 != alone.record.sha256

    def test_without_its_base_it_says_what_is_missing(self, given: Path, base: Path):
        with pytest.raises(UsageError, match="--lora-base"):
            load_checkpoint(given)
        with pytest.raises(UsageError, match="no LoRA adapter"):
            load_checkpoint(base, lora_base=base)
        with pytest.raises(UsageError, match="an adapter, too"):
            load_checkpoint(given, lora_base=given)

    def test_a_merge_that_overflows_is_refused(self, given: Path, base: Path):
        huge = adapter(**{f"{LAYER}.lora_A.weight": torch.full((2, 64), 3e38)})
        saved(given, huge, "adapter_model.safetensors")
        with pytest.raises(RefusedError, match="CG109"):
            load_checkpoint(given, lora_base=base)
