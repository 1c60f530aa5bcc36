"""Which files of a folder are the model, and what the others make of it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipguard.checkpoint.contents import contents
from clipguard.checkpoint.folder import ModelFiles, digest_of, files_of
from clipguard.errors import RefusedError, UsageError


def put(path: Path, *names: str) -> Path:
    """A weights file with tensors of these names."""
    content = {name: torch.zeros(1) for name in names or ("a",)}
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def test_the_usual_name_is_taken_before_all_others(tmp_path: Path):
    with pytest.raises(UsageError, match="found none"):
        files_of(tmp_path)
    put(tmp_path / "a.pt")
    assert files_of(tmp_path).weights == (tmp_path / "a.pt",)
    put(tmp_path / "b.pt")
    with pytest.raises(UsageError, match=r"a\.pt, b\.pt"):
        files_of(tmp_path)
    best = put(tmp_path / "open_clip_pytorch_model.bin")
    assert files_of(tmp_path).weights == (best,)


def test_inspect_tells_of_other_models_and_of_an_index_that_lies_as_a_scan_does(tmp_path: Path):
    put(tmp_path / "model.safetensors", "visual.proj")
    put(tmp_path / "optimizer.pt", "state")
    assert not [note for note in contents(tmp_path).notes if "CG112" in note]
    put(tmp_path / "pytorch_model.bin", "module.visual.proj")
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    [note] = [note for note in contents(tmp_path).notes if "CG112" in note]
    assert "pytorch_model.bin, tf_model.h5" in note
    shards = {"a": put(tmp_path / "1.bin", "a").name, "b": put(tmp_path / "2.bin", "b").name}
    for where, refusal in ((shards, None), ({"a": "1.bin", "b": "1.bin", "c": "2.bin"}, "CG107")):
        (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": where}))
        told = contents(tmp_path / "x.index.json").refusal
        assert told is None if refusal is None else refusal in told


def test_a_note_names_what_was_read_and_what_was_not(tmp_path: Path):
    put(tmp_path / "model.safetensors")
    put(tmp_path / "optimizer.pt")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "modeling.py").write_text("")
    (tmp_path / "onnx").mkdir()
    (note,) = files_of(tmp_path).notes
    read, inspected, rest = note.split("; ")
    assert "model.safetensors" in read
    assert inspected.endswith(": optimizer.pt")
    assert rest.endswith(": modeling.py, onnx/, README.md")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "critic.pt", "weird.CKPT"])
def test_a_folder_is_refused_for_any_weights_file_that_runs_code(name: str, tmp_path: Path):
    put(tmp_path / "model.safetensors")
    with (tmp_path / name).open("wb") as file:
        torch.save({"a": eval}, file)
    with pytest.raises(RefusedError, match=rf"^{name}: CG101"):
        files_of(tmp_path)


def index(folder: Path, **where: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": where}))
    return path


def test_an_index_names_the_files_of_one_model(tmp_path: Path):
    one, two = (put(tmp_path / f"{i}.safetensors", f"t{i}") for i in (1, 2))
    path = index(tmp_path, t1="1.safetensors", t2="2.safetensors")
    for given in (path, tmp_path):
        found = files_of(given)
        assert found.weights == (one, two)
        assert found.where == {"t1": one.name, "t2": two.name}


@pytest.mark.parametrize(
    "name",
    [
        "../1.safetensors",
        "/tmp/1.safetensors",
        "folder/1.safetensors",
        "folder\\1.safetensors",
        "..",
        "",
        "code.py",
        "missing.safetensors",
        "x" * 5000 + ".bin",
        "1.safetensors\n",
        "\0.bin",
        7,
        None,
        ["1.safetensors"],
    ],
)
def test_an_index_names_nothing_but_weights_beside_it(name: object, tmp_path: Path, one_line):
    put(tmp_path / "1.safetensors")
    (tmp_path / "folder").mkdir()
    put(tmp_path / "folder" / "1.safetensors")
    with one_line(RefusedError, r"^model\.safetensors\.index\.json: CG103"):
        files_of(index(tmp_path, a=name, b="1.safetensors"))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', "[" * 10**5]
)
def test_an_index_that_is_none_is_one_line(content: str, tmp_path: Path, one_line):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with one_line((RefusedError, UsageError), r"model\.safetensors\.index\.json"):
        files_of(path)


def test_pipes_in_a_folder_are_not_opened(tmp_path: Path):
    put(tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "pytorch_model.bin")
    assert "not looked at: pytorch_model.bin" in files_of(tmp_path).notes[0]


def test_the_digest_of_several_files_is_that_of_their_sorted_lines():
    assert digest_of([("model.pt", "ab")]) == "ab"
    wanted = hashlib.sha256(b"1.bin aa\n2.bin bb\n").hexdigest()
    assert digest_of([("2.bin", "bb"), ("1.bin", "aa")]) == wanted
    assert files_of(Path(__file__)) == ModelFiles((Path(__file__),))


def test_what_a_trainer_saved_beside_the_model_is_no_reason_to_refuse_it(tmp_path: Path):
    put(tmp_path / "model.safetensors")
    torch.save({"a": eval}, tmp_path / "training_args.bin")
    (note,) = files_of(tmp_path).notes
    assert "training_args.bin: CG101" in note
    (tmp_path / "training_args.bin").rename(tmp_path / "args.bin")
    with pytest.raises(RefusedError, match=r"^args\.bin: CG101"):
        files_of(tmp_path)
