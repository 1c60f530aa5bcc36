"""Several models in one folder: the same ones count as one, others are named and pass nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from other_libraries import VIT
from safetensors.torch import save_file
from samples import judged, passing
from tiny_clip import network, state_of, write_config
from torch import Tensor
from transformers_models import save, tiny_clip

from clipguard.checkpoint.gather import gather
from clipguard.checkpoint.sandbox import Guard
from clipguard.errors import RefusedError
from clipguard.record import Decision, OtherModelRecord

State = dict[str, Tensor]
HERE = Guard("none")


@pytest.fixture(scope="module")
def state() -> State:
    return state_of(VIT)


def others(folder: Path, guard: Guard = HERE) -> dict[str, bool]:
    """Name of each other model, and whether it is the same."""
    return {one.name: one.equal for one in gather(folder, guard=guard).others}


def changed(state: State, key: str, by: float = 1e-3) -> State:
    return {**state, key: state[key] + by}


def test_the_same_model_in_another_container_under_another_prefix_is_one(
    tmp_path: Path, state: State
):
    save_file(state, tmp_path / "open_clip_model.safetensors")
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "open_clip_pytorch_model.bin")
    torch.save({"a": torch.zeros(1)}, tmp_path / "optimizer.pt")
    assert others(tmp_path, Guard()) == {"open_clip_pytorch_model.bin": True}


@pytest.mark.parametrize("key", ["visual.proj", "ln_final.bias", "logit_scale"])
def test_another_model_is_told_from_it_by_one_tensor(key: str, tmp_path: Path, state: State):
    save_file(state, tmp_path / "model.safetensors")
    torch.save(changed(state, key), tmp_path / "pytorch_model.bin")
    (found,) = gather(tmp_path, guard=HERE).others
    assert not found.equal
    assert key in found.says


def test_what_many_models_are_rounded_to_says_nothing_of_a_finer_one(tmp_path: Path, state: State):
    halved = {key: tensor.half() for key, tensor in state.items()}
    save_file(halved, tmp_path / "model.safetensors")
    save_file(state, tmp_path / "model.fp32.safetensors")
    assert others(tmp_path) == {"model.fp32.safetensors": False}


def test_neither_an_index_nor_a_lora_tensor_hides_another_model(tmp_path: Path, state: State):
    save_file(state, tmp_path / "open_clip_model.safetensors")
    evil = changed(state, "visual.proj", by=0.01)
    save_file({**evil, "x.lora_A.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    index = {"weight_map": {"x": "model.safetensors"}}
    (tmp_path / "decoy.index.json").write_text(json.dumps(index))
    assert others(tmp_path) == {"decoy.index.json": False}
    (tmp_path / "decoy.index.json").unlink()
    assert others(tmp_path) == {"model.safetensors": False}


def test_a_second_model_in_one_file_is_refused(tmp_path: Path, state: State):
    evil = changed(state, "visual.proj", by=0.01)
    both = {**evil, **{f"a.{key}": tensor.clone() for key, tensor in state.items()}}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(RefusedError, match="CG107"):
        gather(tmp_path / "model.safetensors", guard=HERE)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_of_the_same_model_is_the_same(
    half: torch.dtype, tmp_path: Path, state: State
):
    halved = {key: tensor.to(half) for key, tensor in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    save_file(halved, tmp_path / "model.fp16.safetensors")
    (found,) = gather(tmp_path, guard=HERE).others
    assert found.equal
    assert str(half).removeprefix("torch.") in found.says
    halved = changed(halved, "visual.proj", by=0.01)
    save_file(halved, tmp_path / "model.fp16.safetensors")
    assert others(tmp_path) == {"model.fp16.safetensors": False}


def test_a_tower_alone_is_the_same_only_if_it_is_whole(tmp_path: Path, state: State):
    save_file(state, tmp_path / "model.safetensors")
    tower = {key: tensor for key, tensor in state.items() if key.startswith("visual.")}
    torch.save(tower, tmp_path / "tower.bin")
    assert others(tmp_path) == {"tower.bin": True}
    del tower["visual.ln_post.bias"]  # a reader that takes it anyway begins it with zeros
    torch.save(tower, tmp_path / "tower.bin")
    assert others(tmp_path) == {"tower.bin": False}
    torch.save({**state, "visual.gate": torch.zeros(2)}, tmp_path / "tower.bin")
    assert others(tmp_path) == {"tower.bin": False}


def test_shards_and_names_of_transformers_are_compared_too(tmp_path: Path):
    model = tiny_clip()
    save(tmp_path, model, "shards")
    index = tmp_path / "model.safetensors.index.json"
    assert others(tmp_path) == {}  # its own shards are no other models
    whole = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(whole, tmp_path / "model.safetensors")
    assert others(tmp_path) == {index.name: True}
    kept = index.read_text(encoding="utf-8")
    index.write_text(json.dumps({"weight_map": {"a": "../a.bin"}}), encoding="utf-8")
    assert others(tmp_path)[index.name] is False
    index.write_text(kept, encoding="utf-8")
    state = gather(tmp_path / "model.safetensors", guard=HERE).tensors
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")  # is read first now
    assert others(tmp_path) == {index.name: True, "model.safetensors": True}
    save_file(changed(whole, "logit_scale"), tmp_path / "model.safetensors")
    assert others(tmp_path) == {index.name: True, "model.safetensors": False}


def test_weights_that_cannot_be_compared_are_not_the_same(tmp_path: Path, state: State):
    save_file(state, tmp_path / "model.safetensors")
    twice = {**state, **{f"module.{key}": tensor for key, tensor in state.items()}}
    torch.save(twice, tmp_path / "pytorch_model.bin")  # two readers would see two models
    assert others(tmp_path) == {"pytorch_model.bin": False}


def test_weights_for_other_frameworks_are_never_taken_for_the_same(tmp_path: Path, state: State):
    save_file(state, tmp_path / "model.safetensors")
    for name in ("tf_model.h5", "flax_model-00001-of-00002.msgpack", "notes.msgpack"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "flax_model.msgpack").mkdir()
    wanted = {"tf_model.h5": False, "flax_model-00001-of-00002.msgpack": False}
    assert others(tmp_path) == wanted


def test_an_adapter_counts_where_transformers_adds_it_by_itself(tmp_path: Path, state: State):
    save_file(state, tmp_path / "model.safetensors")
    key = "base_model.model.visual.proj.lora_A.weight"
    save_file({key: torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    assert others(tmp_path) == {}
    write_config(tmp_path / "adapter_config.json", {})
    assert others(tmp_path) == {"adapter_model.safetensors": False}


def test_a_model_with_other_random_weights_is_another(tmp_path: Path, state: State):
    save_file(state, tmp_path / "model.safetensors")
    torch.save(network(VIT, seed=1).state_dict(), tmp_path / "epoch_2.pt")
    assert others(tmp_path) == {"epoch_2.pt": False}


@pytest.mark.parametrize(
    ("equal", "wanted"),
    [((True, True), Decision.PASS), ((True, False), Decision.INCONCLUSIVE)],
)
def test_a_folder_with_another_model_passes_nothing(equal: tuple[bool, ...], wanted: Decision):
    record = passing()
    assert record.checkpoint is not None
    others = tuple(OtherModelRecord(name="b.bin", equal=one, says="x") for one in equal)
    known = record.checkpoint.model_copy(update={"others": others})
    gate = judged(record.model_copy(update={"checkpoint": known})).gate
    assert gate is not None
    assert gate.decision is wanted
