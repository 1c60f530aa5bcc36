"""Names of a file become those of one CLIP, and nothing that matters is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from other_libraries import VIT, saved
from tiny_clip import state_of, write_config
from torch import Tensor

from clipguard.checkpoint.load import load_checkpoint
from clipguard.checkpoint.names import plain_names
from clipguard.errors import RefusedError, UsageError

CLIP = ("visual.conv1.weight", "token_embedding.weight", "logit_scale")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return state_of(VIT)


@pytest.fixture
def arch(tmp_path: Path) -> str:
    return str(write_config(tmp_path / "tiny.json", VIT))


def under(prefix: str, names: tuple[str, ...] = CLIP) -> list[str]:
    return [f"{prefix}{name}" for name in names]


@pytest.mark.parametrize(
    "prefix", ["", "model.", "module.", "_orig_mod.module.", "a.b.c.", "net.clip_model."]
)
def test_one_common_prefix_is_taken_off(prefix: str):
    assert [*plain_names(under(prefix)).names.values()] == list(CLIP)


def test_a_name_outside_the_prefix_never_becomes_a_part():
    naming = plain_names([*under("m.", CLIP[:2]), "logit_scale", "visualise.weight"])
    assert naming.names["logit_scale"] == "/logit_scale"
    assert naming.names["m.visual.conv1.weight"] == "visual.conv1.weight"


@pytest.mark.parametrize(
    ("prefixes", "read"),
    [
        (("ema_model.", "model."), "model."),
        (("teacher.", "student."), "student."),
        (("first.", "second."), "first."),
    ],
)
def test_one_of_several_networks_is_read_and_the_note_names_the_other(
    prefixes: tuple[str, str], read: str
):
    naming = plain_names([name for prefix in prefixes for name in under(prefix)])
    assert naming.names[f"{read}logit_scale"] == "logit_scale"
    (other,) = set(prefixes) - {read}
    assert other in naming.notes[0]
    assert read in naming.notes[0]


def test_averaged_weights_alone_are_read_and_noted():
    naming = plain_names(under("model_ema."))
    assert naming.names["model_ema.logit_scale"] == "logit_scale"
    assert "averaged" in naming.notes[0]


def test_two_tensors_never_get_one_name():
    with pytest.raises(RefusedError, match=r"CG107.*visual\.conv1\.weight"):
        plain_names(["visual.conv1.weight", "visual._orig_mod.conv1.weight"])


def test_a_bare_image_tower_is_one():
    names = ["t.conv1.weight", "t.ln_post.weight", "t.proj"]
    assert plain_names(names).names["t.proj"] == "visual.proj"


@pytest.mark.parametrize(
    "extra",
    [
        "visual.adapter.weight",
        "transformer.resblocks.2.ln_1.weight",
        "text.token_embedding.weight",
        "visual.transformer.resblocks.0.attn.lora.weight",
        "vision_model.adapter.weight",
    ],
)
def test_a_tensor_inside_a_tower_is_never_left_out(
    extra: str, state: dict[str, Tensor], arch: str, tmp_path: Path
):
    with pytest.raises(UsageError, match="--arch"):
        load_checkpoint(saved(tmp_path, {**state, extra: torch.zeros(3)}), arch=arch)


@pytest.mark.parametrize(
    ("missing", "says"),
    [("ln_final.bias", r"ln_final\.bias"), ("visual.proj", r"visual\.proj")],
)
def test_only_logit_scale_may_be_missing(
    missing: str, says: str, state: dict[str, Tensor], arch: str, tmp_path: Path
):
    less = {key: tensor for key, tensor in state.items() if key != missing}
    with pytest.raises(UsageError, match=says):
        load_checkpoint(saved(tmp_path, less), arch=arch)


def noted(path: Path, **how: Any) -> str:
    return "\n".join(load_checkpoint(path, **how).record.notes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"head.weight": torch.zeros(3)}, "head.weight"),
        ({"logit_bias": torch.tensor(1.0)}, "logit_bias"),
        ({"n_iter": torch.tensor(3)}, "n_iter"),
        ({"logit_scale": None}, "logit_scale"),
        ({"\u202ehead.weight": torch.zeros(3)}, None),
    ],
)
def test_what_is_left_out_or_assumed_is_named(
    change: dict[str, Tensor | None],
    told: str | None,
    state: dict[str, Tensor],
    arch: str,
    tmp_path: Path,
):
    content = {key: t for key, t in {**state, **change}.items() if t is not None}
    if told is None:
        with pytest.raises(RefusedError, match="CG108"):
            load_checkpoint(saved(tmp_path, content), arch=arch)
    else:
        assert told in noted(saved(tmp_path, content), arch=arch)


def test_the_notes_of_a_file_stand_in_the_line_that_it_ends_with(
    state: dict[str, Tensor], tmp_path: Path
):
    path = saved(tmp_path, {"model_ema": state, "args": Path("x")})
    with pytest.raises(UsageError, match=r"averaged.*pathlib|pathlib.*averaged"):
        load_checkpoint(path, arch="ViT-B-32")


class TestImageTowerAlone:
    @pytest.fixture
    def tower(self, state: dict[str, Tensor], tmp_path: Path) -> Path:
        visual = {key: t for key, t in state.items() if key.startswith("visual.")}
        return saved(tmp_path, visual)

    def test_it_says_what_is_missing(self, tower: Path, arch: str):
        with pytest.raises(UsageError, match="--text-from"):
            load_checkpoint(tower, arch=arch)

    def test_it_gets_the_text_tower_of_another_file(
        self, tower: Path, state: dict[str, Tensor], arch: str, tmp_path: Path
    ):
        other = {f"module.{key}": t if "visual" in key else t + 1 for key, t in state.items()}
        whole = saved(tmp_path, {"state_dict": other}, "other.pt")
        loaded = load_checkpoint(tower, arch=arch, text_from=whole)
        for key, tensor in loaded.state.items():
            assert torch.equal(tensor, state[key] + (0 if key.startswith("visual.") else 1)), key
        assert load_checkpoint(whole, arch=arch).record.sha256 in loaded.record.notes[-1]

    def test_a_whole_clip_takes_no_other_text_tower(
        self, tower: Path, state: dict[str, Tensor], arch: str, tmp_path: Path
    ):
        whole = saved(tmp_path, state, "whole.pt")
        with pytest.raises(UsageError, match="of its own"):
            load_checkpoint(whole, arch=arch, text_from=tower)
        with pytest.raises(UsageError, match="no text tower"):
            load_checkpoint(tower, arch=arch, text_from=tower)

    def test_a_hostile_text_tower_is_refused(self, tower: Path, arch: str, tmp_path: Path):
        with pytest.raises(RefusedError, match=r"evil\.pt: CG101"):
            load_checkpoint(tower, arch=arch, text_from=saved(tmp_path, {"a": eval}, "evil.pt"))


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(
    state: dict[str, Tensor], tmp_path: Path
):
    names = sorted(state)
    for i in (1, 2):
        part = {key: state[key] for key in names[i::2] + names[:1]}
        saved(tmp_path, part, f"{i}.safetensors")
    where = {key: "1.safetensors" if key in names[1::2] else "2.safetensors" for key in names}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    with pytest.raises(RefusedError, match=r"CG107.*1\.safetensors"):
        load_checkpoint(index)


def test_a_shard_that_runs_code_is_refused_by_its_name(state: dict[str, Tensor], tmp_path: Path):
    saved(tmp_path, state, "1.bin")
    saved(tmp_path, {"a": eval}, "2.bin")
    where = dict.fromkeys(state, "1.bin") | {"a": "2.bin"}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    with pytest.raises(RefusedError, match=r"^2\.bin: CG101"):
        load_checkpoint(tmp_path)


def test_a_config_beside_a_file_that_does_not_fit_it_is_not_used(tmp_path: Path):
    from clipguard.bundled.nano import CONFIGS

    write_config(tmp_path / "config.json", VIT)
    path = saved(tmp_path, state_of(CONFIGS["nano-rn"]))
    assert load_checkpoint(path).record.architecture == "nano-rn"


def half(name: str) -> dict[str, Tensor]:
    """Cheap weights of a published architecture."""
    with torch.device("meta"):
        made = open_clip.CLIP(**open_clip.get_model_config(name))
    return {key: torch.zeros(t.shape, dtype=torch.float16) for key, t in made.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("told", ["name", "openai", "config"])
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "RN50", "ViT-L-14"])
def test_published_sizes_load_without_arch(name: str, told: str, tmp_path: Path):
    weights, quick = half(name), f"{name}-quickgelu"
    path, wanted = tmp_path / "model.pt", name
    if told == "name":
        torch.save({"epoch": 1, "name": quick, "state_dict": weights}, path)
        wanted = quick
    elif told == "openai":
        from test_checkpoint import scripted

        torch.jit.save(scripted({**weights, "input_resolution": torch.tensor(224)}), path)
        wanted = quick
    else:
        write_config(tmp_path / "open_clip_config.json", open_clip.get_model_config(name))
        torch.save(weights, path)
    del weights
    record = load_checkpoint(path).record
    assert record.architecture == wanted
    path.unlink()
