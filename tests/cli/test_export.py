"""`clipguard export`: the classifier alone, and what `predict` makes of the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from samples import export

from clipguard.bundled.artwork import compose, load_artwork
from clipguard.checkpoint.inspection import sha256_of
from clipguard.checkpoint.sandbox import Guard
from clipguard.cli.app import main
from clipguard.errors import UsageError
from clipguard.export.onnx import ExportJob
from clipguard.export.session import open_session
from clipguard.model.pixels import pixels_to_bytes
from clipguard.record import ExportRecord

pytest_plugins = ["nano_models"]


def photo(path: Path, name: str) -> Path:
    """One scene of the drawing `name`."""
    artwork = load_artwork()
    sprite = artwork.sprites[0, artwork.concepts([name])]
    image = compose(sprite, side=64, generator=torch.Generator().manual_seed(0))[0]
    Image.fromarray(pixels_to_bytes(image).permute(1, 2, 0).numpy(), "RGB").save(path)
    return path


def test_a_checkpoint_becomes_a_classifier_that_predict_reads(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    onnx = tmp_path / "new" / "model.onnx"
    onnx.parent.mkdir()
    assert main(["export", str(nano), "-o", str(onnx), "--require-ep", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{onnx}: opset ")
    assert "CPUExecutionProvider" in out
    assert "not a verdict" in err
    image = photo(tmp_path / "image.png", "hammer")
    assert main(["predict", str(onnx), str(image), "--json", "--top", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["head"] == "zero-shot"
    assert document["images"][0]["top"][0]["class"] == "hammer"


def test_the_sandbox_that_was_chosen_is_used(nano: Path, tmp_path: Path, monkeypatch, refused):
    used: list[str] = []

    def load(*_: object, guard: Guard, **__: object) -> None:
        used.append(guard.mode)
        raise UsageError("seen")

    monkeypatch.setattr("clipguard.audit.pipeline.load_checkpoint", load)
    refused(2, "export", nano, "-o", tmp_path / "model.onnx", "--sandbox", "process")
    assert used == ["process"]


def test_a_file_that_misses_a_limit_of_the_default_policy_is_removed(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
):
    written: list[Path] = []

    def differs(job: ExportJob, path: Path, **_: object) -> ExportRecord:
        path.touch()
        written.append(path)
        return export(relative_error=0.01)

    monkeypatch.setattr("clipguard.audit.export.write_onnx", differs)
    assert "export.max_relative_error" in refused(6, "export", nano, "-o", tmp_path / "model.onnx")
    assert written
    assert list(tmp_path.iterdir()) == []


def test_the_purified_classifier_of_a_scan_is_used_in_one_line(
    scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    image = photo(tmp_path / "image.png", "hammer")
    assert main(["predict", str(scanned / "purified.onnx"), str(image), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["head"] == "purified"
    assert len(document["images"][0]["top"]) == 5


@pytest.mark.usefixtures("tiny")
def test_a_head_and_its_repaired_tower_give_the_file_that_the_scan_gave(
    nano: Path, scanned: Path, tmp_path: Path, refused: Callable[..., str]
):
    onnx, head = tmp_path / "purified.onnx", str(scanned / "head.safetensors")
    command = ["-o", str(onnx), "--head", head]
    assert "give the repaired.safetensors" in refused(2, "export", nano, *command)
    assert not onnx.exists()
    assert main(["export", str(scanned / "repaired.safetensors"), *command]) == 0
    assert onnx.read_bytes() == (scanned / "purified.onnx").read_bytes()
    told = open_session(onnx, "cpu").metadata
    assert (told["tower"], told["repaired_from_sha256"]) == ("repaired", sha256_of(nano))


def test_a_head_of_another_checkpoint_is_refused_and_nothing_is_written(
    clean_models: list[Path], scanned: Path, tmp_path: Path, refused: Callable[..., str]
):
    command = ["export", clean_models[1], "-o", tmp_path / "model.onnx"]
    assert "was tuned on another checkpoint" in refused(
        2, *command, "--head", scanned / "head.safetensors"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda head, to: None, 2, "no file or folder at"),
        (lambda head, to: to.write_text("text"), 4, "a text file"),
        (lambda head, to: save_file(load_file(head), to), 4, "not a purified head"),
        (lambda head, to: shutil.copy(head.with_name("triggers") / "1.safetensors", to), 4, "head"),
    ],
    ids=["missing", "text", "without metadata", "a trigger"],
)
def test_a_bad_head_is_refused(
    make, code: int, says: str, nano: Path, scanned: Path, tmp_path: Path, refused
):
    make(scanned / "head.safetensors", tmp_path / "head.safetensors")
    command = ["export", nano, "-o", tmp_path / "model.onnx"]
    assert says in refused(code, *command, "--head", tmp_path / "head.safetensors")
    assert not (tmp_path / "model.onnx").exists()
