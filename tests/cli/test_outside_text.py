"""No name that comes with a file steers the terminal or a CI runner, whatever the command."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from canaries import PAYLOADS
from onnx import helper
from onnx_samples import NAMES, paint, write_classifier
from safetensors.torch import save_file

from clipguard.cli.app import main
from clipguard.errors import ClipguardError
from clipguard.model.prompts import read_class_names, read_templates
from clipguard.probe.images import class_names_digest
from clipguard.purify.files import load_head
from clipguard.resources import shipped

POLICY = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
STEERING = [
    payload
    for payload in PAYLOADS
    if re.search(r"::|##|\[bold|x{999}", payload) or not payload.isprintable()
]
ALL = pytest.mark.parametrize(
    "payload",
    [
        pytest.param(text, id=str(i), marks=[pytest.mark.slow] if i % 4 else [])
        for i, text in enumerate(STEERING)
    ],
)


@pytest.fixture
def shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Call it with a command: exit code and output, which nothing in it steers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> tuple[int, str]:
        code = main([str(word) for word in words])
        text = "\n".join(capsys.readouterr())
        assert {char for char in text if unicodedata.category(char)[0] == "C"} <= {"\n"}
        assert not re.search(r"(?m)^\s*::|##\w*\[", text)
        assert not set(text) & set("\u2028\u2029")
        return code, text

    return run


def file_name(payload: str) -> str:
    """As much of `payload` as a file may be called."""
    plain = payload.replace("/", "_").replace("\0", "_").encode("utf-8", "replace")[:200]
    return plain.decode("utf-8", "ignore") or "_"


@ALL
def test_what_an_onnx_file_and_its_images_are_called(
    payload: str, tmp_path: Path, shown: Callable[..., tuple[int, str]]
):
    names = [payload, *(f"{payload}{i}" for i in range(len(NAMES) - 1))]
    given = {"class_names": json.dumps(names), "class_names_sha256": class_names_digest(names)}
    given |= dict.fromkeys(("scope", "resize", "head", "checkpoint_sha256"), payload)

    def change(model: object) -> None:
        kept = {item.key: item.value for item in model.metadata_props}  # type: ignore[attr-defined]
        told = {f"clipguard.{k}": v.encode("utf-8", "replace").decode() for k, v in given.items()}
        helper.set_model_props(model, kept | told)

    (tmp_path / "in").mkdir()
    model = write_classifier(tmp_path, change, f"{file_name(payload)}.onnx")
    paint(tmp_path / "in" / f"{file_name(payload)}.png", "red")
    (tmp_path / "in" / f"broken {file_name(payload)}.png").write_bytes(b"no image")
    for more in ((), ("--json",)):
        code, text = shown("predict", model, "in", "--require-ep", "cpu", "--sandbox=none", *more)
        assert code == 0
        assert "skipped: " in text


@ALL
def test_what_a_refused_model_a_policy_and_a_list_are_called(
    payload: str, tmp_path: Path, shown: Callable[..., tuple[int, str]]
):
    name = file_name(payload)
    (tmp_path / f"{name}.pt").write_text("no model")
    (tmp_path / f"{name}.yaml").write_text(
        POLICY.replace("name: ", f"name: {json.dumps(payload)} #")
    )
    (tmp_path / f"{name}.json").write_text("[1]")
    assert shown("scan", tmp_path / f"{name}.pt", "--sandbox=none")[0] == 4
    assert shown("policy", "validate", tmp_path / f"{name}.yaml")[0] in (0, 2)
    assert shown("gate", tmp_path / f"{name}.json")[0] == 2
    assert shown("predict", tmp_path / f"{name}.pt", tmp_path, "--sandbox=none")[0] in (2, 4)


@ALL
def test_what_is_asked_for(payload: str, tmp_path: Path, shown: Callable[..., tuple[int, str]]):
    (tmp_path / "a.pt").write_text("no model")
    for option in ("--policy", "--format", "--calibration"):
        assert shown("scan", "a.pt", f"{option}={payload}")[0] == 2
    assert shown(f"-{payload}")[0] == 2
    assert shown("scan", f"--{payload}")[0] == 2
    assert shown("lab", "plant", "badnets", f"--target={payload}", "-q")[0] == 2


@ALL
def test_what_tensors_and_notes_are_called(
    payload: str, tmp_path: Path, shown: Callable[..., tuple[int, str]]
):
    plain = payload.encode("utf-8", "replace").decode()
    save_file({plain: torch.zeros(2)}, tmp_path / "a.safetensors", metadata={plain: plain})
    torch.save({"state_dict": {plain: torch.zeros(2)}, plain: plain}, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        assert shown("scan", name, "-q", "--sandbox=none")[0] in (2, 4)


@ALL
def test_what_stands_in_lists_and_heads(payload: str, tmp_path: Path):
    """Whatever is wrong with them is told in one harmless line."""
    (tmp_path / "list.txt").write_text(f"{payload} {{", encoding="utf-8", errors="replace")
    (tmp_path / "list.json").write_text(json.dumps([payload, 1]))
    told = {"clipguard": json.dumps({"class_names": [payload], "checkpoint_sha256": payload})}
    save_file({"classes": torch.ones(1, 1)}, tmp_path / "head.safetensors", metadata=told)
    for read, name in (
        (read_templates, "list.txt"),
        (read_class_names, "list.json"),
        (lambda path: load_head(path, "0" * 64), "head.safetensors"),
    ):
        with pytest.raises(ClipguardError) as error:
            read(tmp_path / name)
        assert str(error.value).isprintable()
