"""Containers, weights that lie, and the architecture behind them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import TINY, state_of, tiny_config, write_config
from torch import Tensor

from clipguard.bundled.nano import CONFIGS
from clipguard.checkpoint.architectures import (
    architecture_from_file,
    architecture_named,
    fitting_architectures,
    network_of,
    shapes_of,
)
from clipguard.checkpoint.configs import Preprocess
from clipguard.checkpoint.inspection import inspect_file, sha256_of
from clipguard.checkpoint.load import load_checkpoint
from clipguard.checkpoint.raw import Buffer, RawTensor, RawWeights, read_numbers
from clipguard.checkpoint.reading import read_weights
from clipguard.checkpoint.sandbox import Guard
from clipguard.checkpoint.tensors import read_tensors
from clipguard.checkpoint.unwrap import FLOATS
from clipguard.errors import RefusedError, UsageError


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return state_of(TINY)


@pytest.fixture
def arch(tmp_path: Path) -> str:
    return str(write_config(tmp_path / "tiny.json", TINY))


def saved(folder: Path, content: object, name: str = "model.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


CONTAINERS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "bare": (dict, "state dict (zip)"),
    "open_clip": (
        lambda s: {"epoch": 3, "name": "run", "state_dict": s, "optimizer": {"lr": 0.1}},
        "open_clip checkpoint (zip)",
    ),
    "ddp": (lambda s: {f"module.{k}": t for k, t in s.items()}, "state dict (zip)"),
    "compiled ddp": (
        lambda s: {f"_orig_mod.module.{k}": t for k, t in s.items()},
        "state dict (zip)",
    ),
    "wrapped": (lambda s: {"model": s, "step": 7}, "state dict under 'model' (zip)"),
    "wrapped twice": (
        lambda s: {"model": {"state_dict": s}},
        "state dict under 'state_dict' (zip)",
    ),
    "ema": (lambda s: {"ema": s}, "state dict under 'ema' (zip)"),
    "half": (
        lambda s: {k: t.half() if t.is_floating_point() else t for k, t in s.items()},
        "state dict (zip)",
    ),
    "openai scalars": (
        lambda s: {**s, "input_resolution": torch.tensor(64), "vocab_size": torch.tensor(64)},
        "state dict (zip)",
    ),
    "old torch": (
        lambda s: {k: t for k, t in s.items() if "num_batches" not in k},
        "state dict (zip)",
    ),
    "vector scale": (lambda s: {**s, "logit_scale": s["logit_scale"][None]}, "state dict (zip)"),
    "namespace": (
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1), "out": Path("out")},
        "state dict under 'model' (zip)",
    ),
    "numpy scalar": (
        lambda s: {"epoch": 1, "name": "x", "state_dict": s, "optimizer": {"lr": np.float64(0.1)}},
        "open_clip checkpoint (zip)",
    ),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_the_same_clean_float32_state(
    kind: str, state: dict[str, Tensor], arch: str, tmp_path: Path
):
    wrap, container = CONTAINERS[kind]
    path = saved(tmp_path, wrap(state))
    loaded = load_checkpoint(path, arch=arch)
    assert loaded.state.keys() == state.keys()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            assert loaded.state[key].dtype == torch.float32
            torch.testing.assert_close(loaded.state[key], tensor, atol=2e-3, rtol=1e-3)
    record, statistics = loaded.record, ("running_mean", "running_var", "num_batches_tracked")
    assert (record.container, record.sha256) == (container, sha256_of(path))
    assert (record.image_size, record.architecture) == (64, "tiny.json")
    assert record.sandbox == Guard().kind
    weights = (t.numel() for k, t in state.items() if not k.endswith(statistics))
    assert record.parameters == sum(weights)
    network_of(loaded.architecture).load_state_dict(loaded.state)


class Scripted(torch.nn.Module):
    """A module with given tensors and a step of its own, as TorchScript wants it."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def scripted(state: dict[str, Tensor]) -> torch.jit.ScriptModule:
    whole = Scripted()
    for key, tensor in state.items():
        *path, last = key.split(".")
        part: torch.nn.Module = whole
        for name in path:
            if name not in dict(part.named_children()):
                part.add_module(name, Scripted())
            part = dict(part.named_children())[name]
        part.register_buffer(last, tensor)
    return torch.jit.script(whole)


def test_a_torchscript_archive_gives_its_tensors_and_a_note(
    state: dict[str, Tensor], arch: str, tmp_path: Path
):
    torch.jit.save(scripted({**state, "input_resolution": torch.tensor(64)}), tmp_path / "m.pt")
    loaded = load_checkpoint(tmp_path / "m.pt", arch=arch)
    assert loaded.record.container == "state dict (TorchScript)"
    assert "CG106" in loaded.record.notes[0]
    for key, tensor in state.items():
        torch.testing.assert_close(loaded.state[key], tensor)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_layout_gives_the_tensors_that_torch_gives(
    protocol: int, zipped: bool, tmp_path: Path
):
    grid = torch.arange(12.0).reshape(3, 4)
    content = {
        "plain": grid,
        "turned": grid.T,
        "part": grid[1:, ::2],
        "again": grid,
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        **{name: grid.to(getattr(torch, name)) for name in sorted(FLOATS)},
    }
    how = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    torch.save(content, tmp_path / "model.pt", **how)
    if protocol == 2 and zipped:  # torch itself cannot read float8 in the old layout
        content = torch.load(tmp_path / "model.pt", weights_only=True)
    found = read_weights(tmp_path / "model.pt").tensors
    assert found.keys() == content.keys()
    for key, tensor in content.items():
        assert found[key].dtype == torch.float32
        assert found[key].shape == tensor.shape
        assert torch.equal(found[key], tensor.detach().float()), key


def test_the_old_layout_is_read_as_torch_reads_it(tmp_path: Path):
    content = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2).half()}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    found = read_weights(tmp_path / "model.pt").tensors
    for key, tensor in torch.load(tmp_path / "model.pt", weights_only=True).items():
        assert torch.equal(found[key], tensor.float())


def test_a_folder_config_wins_and_its_preprocessing_is_honoured(
    state: dict[str, Tensor], tmp_path: Path
):
    save_file(state, tmp_path / "open_clip_model.safetensors")
    numbers = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    preprocess = {**numbers, "interpolation": "bilinear", "resize_mode": "squash"}
    write_config(tmp_path / "open_clip_config.json", TINY, **preprocess, size=96)
    loaded = load_checkpoint(tmp_path)
    assert loaded.record.name == tmp_path.name
    assert loaded.record.container == "state dict (folder, safetensors)"
    assert loaded.architecture.preprocess == Preprocess(**preprocess)
    assert any("preprocess_cfg.size" in note for note in loaded.record.notes)
    assert loaded.architecture.image_size == 64


def test_the_name_in_the_record_is_a_safe_file_name(
    state: dict[str, Tensor], arch: str, tmp_path: Path
):
    path = saved(tmp_path, state).rename(tmp_path / "evil\x1b[31m.pt")
    assert load_checkpoint(path, arch=arch).record.name == "evil\\u{1b}[31m.pt"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.tensor(float("nan")), "CG109 tensor logit_scale"),
        (torch.tensor(float("inf")), "CG109"),
        (torch.tensor(1e300, dtype=torch.float64), "CG109"),
        (torch.zeros(1).expand(10**12), "CG105"),
        (torch.zeros(3).as_strided((2, 2), (1, 1)), "CG105"),
        (torch.zeros((), dtype=torch.int8), "torch.int8"),
        (torch.zeros((), dtype=torch.complex64), "CG105.*complex64"),
        (torch.eye(3).to_sparse(), "CG105.*sparse"),
        (0.5, "got float"),
        (argparse.Namespace(a=1), r"CG102.*got argparse\.Namespace"),
    ],
)
def test_a_dishonest_weight_is_refused_by_name(
    value: object, says: str, state: dict[str, Tensor], arch: str, tmp_path: Path, one_line
):
    path = saved(tmp_path, {**state, "logit_scale": value})
    with one_line(RefusedError, rf"^model\.pt: .*{says}"):
        load_checkpoint(path, arch=arch)


def test_sizes_that_overflow_are_refused(tmp_path: Path):
    inspection = inspect_file(saved(tmp_path, {}))
    huge = RawTensor("a", "float32", (0, 2**62, 2**62))
    with pytest.raises(RefusedError, match="CG105"):
        read_tensors(RawWeights(inspection, "", (), (huge,), iter([b""])))


def test_one_storage_under_many_names_is_refused_before_it_is_copied(tmp_path: Path):
    shared = torch.zeros(10_000).half()
    with pytest.raises(RefusedError, match="CG105"):
        load_checkpoint(saved(tmp_path, {f"t{i}": shared[i:] for i in range(30)}))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        *(({key: torch.zeros(1)}, "CG108") for key in (3, "a\x1b[31m", "a" * 513, "a\u2028b")),
        ({}, "CG102"),
        ([], "CG102"),
        (torch.zeros(3), "CG102"),
        ({"state_dict": {}}, "CG102"),
    ],
)
def test_anything_but_plainly_named_tensors_is_refused(
    content: object, rule: str, tmp_path: Path, one_line
):
    with one_line(RefusedError, rule):
        load_checkpoint(saved(tmp_path, content))


def test_a_file_that_changes_while_it_is_read_is_refused(
    state: dict[str, Tensor], arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = saved(tmp_path, state)
    other = saved(tmp_path, {**state, "logit_scale": torch.tensor(0.0)}, "other.pt").read_bytes()

    def swap_before(*args: Any) -> Iterator[Buffer]:
        path.write_bytes(other)
        return read_numbers(*args)

    monkeypatch.setattr("clipguard.checkpoint.raw.read_numbers", swap_before)
    for change in (other, other[:-1], other + b"1"):
        other, path = change, saved(tmp_path, state)
        with pytest.raises(RefusedError, match="changed"):
            load_checkpoint(path, arch=arch, guard=Guard("none"))


def test_what_was_checked_is_what_is_read_though_another_file_takes_its_name(
    state: dict[str, Tensor], arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = saved(tmp_path, state)
    other = saved(tmp_path, {**state, "logit_scale": torch.tensor(0.0)}, "other.pt")

    def replace_before(*args: Any) -> Iterator[Buffer]:
        other.replace(path)
        return read_numbers(*args)

    monkeypatch.setattr("clipguard.checkpoint.raw.read_numbers", replace_before)
    loaded = load_checkpoint(path, arch=arch, guard=Guard("none"))
    assert loaded.state["logit_scale"] == state["logit_scale"]


@pytest.mark.parametrize(
    ("changes", "arch", "says"),
    [
        ({}, "nano-rn", r"positional_embedding: expected shape \(32, 128\), got \(16, 32\)"),
        ({}, tiny_config(layers=2), "2 layers, got 1"),
        ({}, tiny_config(mlp_ratio=2.0), r"mlp\.c_fc\.bias: expected shape \(64,\), got \(128,\)"),
        ({"visual.extra": torch.zeros(1)}, TINY, r"visual\.extra: unexpected"),
        ({"visual.conv1.weight": None}, TINY, r"visual\.conv1\.weight"),
        ({}, None, "--arch"),
        ({}, "ViTB32", "did you mean .*ViT-B-32"),
        ({}, "roberta-ViT-B-32", "Hugging Face transformers"),
    ],
)
def test_what_does_not_fit_the_architecture_is_named(
    changes: dict[str, Tensor | None],
    arch: str | dict[str, object] | None,
    says: str,
    state: dict[str, Tensor],
    tmp_path: Path,
):
    if isinstance(arch, dict):
        arch = str(write_config(tmp_path / "config.json", arch))
    changed = {key: t for key, t in {**state, **changes}.items() if t is not None}
    with pytest.raises(UsageError, match=says):
        load_checkpoint(saved(tmp_path, changed), arch=arch)


def test_a_bundled_architecture_is_inferred_and_the_random_state_left_alone(tmp_path: Path):
    path, before = saved(tmp_path, state_of(CONFIGS["nano-rn"])), torch.get_rng_state()
    assert load_checkpoint(path).record.architecture == "nano-rn"
    assert torch.equal(before, torch.get_rng_state())


def meta_shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes_of(network_of(architecture_named(name)).state_dict())


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-256", "ViT-g-14", "coca_ViT-B-32"])
def test_shapes_that_leave_the_activation_open_give_the_usual_one_first(name: str):
    first, second = fitting_architectures(meta_shapes(name))
    assert (first.name, second.name) == (name, f"{name}-quickgelu")
    assert second.config["quick_gelu"]
    assert first.preprocess == second.preprocess
    assert architecture_named(second.name) == second  # for --arch


def test_a_text_tower_of_transformers_is_refused_as_one(state: dict[str, Tensor], tmp_path: Path):
    shapes = {"text.transformer.embeddings.word_embeddings.weight": (250002, 768)}
    with pytest.raises(UsageError, match="xlm-roberta"):
        fitting_architectures({**shapes_of(state), **shapes})
    config = tiny_config(hf_model_name="xlm-roberta-base")
    with pytest.raises(UsageError, match="xlm-roberta"):
        architecture_from_file(write_config(tmp_path / "open_clip_config.json", config))


@pytest.mark.parametrize("name", ["nano-vit", "nano-rn", "effnet"])
def test_the_small_architectures_have_one_activation(name: str):
    (found,) = fitting_architectures(meta_shapes(name))
    assert found.name == name


def test_the_preprocessing_of_published_weights_is_used():
    (found,) = fitting_architectures(meta_shapes("ViT-B-16-SigLIP"))
    assert (found.name, found.preprocess.resize_mode) == ("ViT-B-16-SigLIP", "squash")
    assert found.preprocess.mean == (0.5, 0.5, 0.5)
    assert "OpenAI" in architecture_named("ViT-L-14").notes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vision_cfg": {"image_size": 10**9}}, "from 1 to 1024"),
        ({"text_cfg": {"context_length": 30_000}}, "context_length"),
        ({"text_cfg": {"layers": 10**5}}, "layers"),
        ({"text_cfg": {"context_length": 1024, "heads": 10**5}}, "attention scores"),
        ({"vision_cfg": {"image_size": 1024, "patch_size": 1, "layers": 1}}, "attention scores"),
        ({"vision_cfg": {"head_width": 0, "layers": 1}}, "head_width"),
        ({"vision_cfg": {"image_size": [64, 32]}}, "image_size"),
        ({"vision_cfg": {"layers": [1, 1]}}, "one number or four"),
        ({"text_cfg": {"layers": "many"}}, "whole number"),
        ({"text_cfg": {"vocab_size": True}}, "whole number"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:someone/something"}}, "timm has no"),
        ({"text_cfg": {"hf_model_name": "someone/something"}}, "not supported"),
        ({"text_cfg": {"unheard_of": 1}}, "cannot build it"),
        ({"text_cfg": {"heads": 5}}, "cannot build it"),
        ({"embed_dim": None}, "embed_dim"),
        ({"text_cfg": 3}, "vision_cfg and text_cfg"),
    ],
)
def test_a_config_from_outside_is_checked_before_anything_is_built(
    change: dict[str, object], says: str, state: dict[str, Tensor], tmp_path: Path, one_line
):
    config = {
        key: {**TINY[key], **value} if isinstance(value, dict) else value
        for key, value in change.items()
    }
    path = write_config(tmp_path / "evil.json", {**TINY, **config})
    with one_line(UsageError, says):
        load_checkpoint(saved(tmp_path, state), arch=str(path))


@pytest.mark.parametrize(
    "preprocess",
    [
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, float("nan")]},
        {"std": [0, 1, 1]},
        {"interpolation": "guess"},
        {"resize_mode": ["squash"]},
    ],
)
def test_impossible_preprocessing_is_a_usage_error(
    preprocess: dict[str, object], state: dict[str, Tensor], tmp_path: Path
):
    saved(tmp_path, state)
    write_config(tmp_path / "open_clip_config.json", TINY, **preprocess)
    with pytest.raises(UsageError, match="preprocess_cfg"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"model_cfg": []}), "[" * 10**5])
def test_a_config_that_is_not_one_is_a_usage_error(
    content: str, state: dict[str, Tensor], tmp_path: Path
):
    path = tmp_path / "broken.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"broken\.json"):
        load_checkpoint(saved(tmp_path, state), arch=str(path))
