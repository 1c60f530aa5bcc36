"""What `clipguard inspect` says of a file, and that it needs no torch for it."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_python
from safetensors.torch import save_file
from tiny_clip import TINY, state_of, write_config

from clipguard.checkpoint.architectures import architecture_named, network_of
from clipguard.checkpoint.inspection import sha256_of
from clipguard.checkpoint.known_shapes import RESNETS, TRANSFORMERS, guess
from clipguard.cli.app import main

WITHOUT_TORCH = """
import sys
for name in ("torch", "open_clip", "transformers", "timm"):
    sys.modules[name] = None
from clipguard.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    extra = {"args": argparse.Namespace(lr=0.1), "epoch": 3, "run": "a\x1b[31m ##[error]b"}
    torch.save(
        {"model": state_of(TINY), "optimizer": {"x": torch.ones(2)}, **extra}, tmp_path / "m.pt"
    )
    return tmp_path / "m.pt"


def inspected(*words: object, code: int) -> dict[str, Any]:
    done = run_python("-c", WITHOUT_TORCH, "inspect", "-f", "json", *words, code=code)
    assert "##" not in done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("mode", ["auto", "process", "none"])
def test_everything_about_a_file_is_told_without_torch(mode: str, model: Path):
    found = inspected(model, "--sandbox", mode, code=0)
    assert found["schema_version"] == "clipguard.inspection/1"
    assert (found["loads"], found["container"]) == (True, "zip")
    assert (found["sha256"], found["size_bytes"]) == (sha256_of(model), model.stat().st_size)
    shapes = {row["name"]: row["shape"] for row in found["tensors"]}
    assert shapes["visual.conv1.weight"] == [*state_of(TINY)["visual.conv1.weight"].shape]
    assert (found["other_tensors"] > 0, found["metadata"]["epoch"]) == (True, "3")
    assert found["metadata"]["run"] == "a\\u{1b}[31m ## [error]b"
    assert [finding["rule"] for finding in found["findings"]] == ["CG110"]
    assert (found["sandbox"] == "none") is (mode == "none")


def test_a_folder_is_told_by_its_config(tmp_path: Path):
    save_file(state_of(TINY), tmp_path / "open_clip_model.safetensors")
    write_config(tmp_path / "open_clip_config.json", TINY, mean=[0.5, 0.5, 0.5])
    found = inspected(tmp_path, code=0)
    assert found["weights_file"] == "open_clip_model.safetensors"
    assert found["architecture"]["how"] == "open_clip_config.json"


def test_a_refused_file_has_its_rule_its_digest_and_what_to_do(tmp_path: Path):
    path = tmp_path / "bad.pt"
    path.write_bytes(pickle.dumps(os.mkdir, protocol=2))
    found = inspected(path, code=4)
    assert (found["loads"], found["sha256"]) == (False, sha256_of(path))
    assert found["findings"][0]["rule"] == "CG101"
    assert found["advice"]
    torch.save({"a": torch.zeros(1), "b": 3}, path)
    found = inspected(path, code=4)
    assert (found["findings"][0]["rule"], found["container"]) == ("CG102", "zip")
    assert found["advice"]


def test_a_head_is_no_checkpoint(tmp_path: Path):
    path = tmp_path / "head.safetensors"
    save_file({"context": torch.zeros(2, 4, 8), "classes": torch.zeros(2, 8)}, path)
    found = inspected(path, code=0)
    assert (found["loads"], "--head" in found["advice"]) == (False, True)


def test_what_is_no_model_is_a_usage_error_in_one_line(tmp_path: Path, refused):
    refused(2, "inspect", tmp_path / "nothing.pt")
    refused(2, "inspect", tmp_path)


def test_the_table_shows_the_first_tensors_or_all_and_nothing_raw(model: Path, capsys):
    names = {key for key in state_of(TINY) if "num_batches" not in key}
    for words, rows in (([], 12), (["--all"], len(names))):
        assert main(["inspect", str(model), *words]) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert len(names & set(shown.split())) == rows


@pytest.mark.parametrize("name", [*TRANSFORMERS.values(), *RESNETS.values()])
def test_the_shapes_of_common_architectures_are_known(name: str):
    with torch.device("meta"):
        state = network_of(architecture_named(name)).state_dict()
    shapes = {f"module.{key}": tuple(tensor.shape) for key, tensor in state.items()}
    assert guess(Path("model.pt"), shapes).name == name
    shapes["module.visual.layer5.0.conv1.weight"] = (1,)
    del shapes["module.token_embedding.weight"]
    assert guess(Path("model.pt"), shapes) is None


def test_a_small_file_takes_little_time(model: Path):
    taken = []
    for _ in range(3):
        begun = time.monotonic()
        run_python("-m", "clipguard", "inspect", model, code=0)
        taken.append(time.monotonic() - begun)
    assert min(taken) < 2  # 0.3 s where nothing else runs
