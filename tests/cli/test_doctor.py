from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipguard.cli import doctor
from clipguard.cli.app import main
from clipguard.cli.doctor import (
    DIGESTS,
    PACKAGES,
    REQUIRED,
    examine_assets,
    examine_disk,
    examine_folder,
    examine_library,
    examine_onnxruntime,
    examine_sandbox,
    examine_torch_cuda,
    examine_torchvision,
    read_digests,
)
from clipguard.resources import asset

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bundled(tmp_path_factory, monkeypatch):
    """One bundled file, so that these tests do not hang on the real ones."""
    folder = tmp_path_factory.mktemp("assets")
    (folder / "one.txt").write_bytes(b"one")
    (folder / DIGESTS).write_text(f"{hashlib.sha256(b'one').hexdigest()}  one.txt\n")
    monkeypatch.setattr(doctor, "asset", lambda name: folder / name)


def test_a_working_machine_exits_0_with_one_line_per_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line[7:27].strip() for line in lines]
    assert named[:7] == ["python", *REQUIRED]
    assert {"torchvision + torch", "torch on CUDA", "onnxruntime on CUDA", "disk"} <= {*named}
    assert {line[:7].strip() for line in lines} <= {"ok", "note"}


def test_one_broken_thing_exits_5_and_json_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(doctor.REQUIRED, "onnx", "99.0")
    assert main(["doctor", "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    [broken] = [check for check in document["checks"] if check["status"] == "broken"]
    assert (broken["name"], "99.0" in broken["detail"]) == ("onnx", True)
    assert broken["advice"] == "pip install --upgrade 'onnx>=99.0'"


def test_required_versions_are_those_of_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, oldest in REQUIRED.items():
        package = PACKAGES.get(name, name)
        found = re.findall(rf'^  "{package}(?:-gpu)?>=([\d.]+)', text, re.MULTILINE)
        assert set(found) == {oldest}, package


def wrecked(*_):
    raise RuntimeError("no operator \x1b[2J\nlong story")


def test_a_library_that_fails_to_import_is_broken_with_its_reason(monkeypatch):
    assert examine_library("no_such_library", "1.0").status == "broken"
    monkeypatch.setattr(importlib, "import_module", wrecked)
    line = examine_library("wrecked", "1.0")
    assert (line.status, line.advice) == ("broken", "pip install --upgrade 'wrecked>=1.0'")
    assert line.detail == "cannot be imported: no operator \x1b[2J"
    # of another build than torch
    assert "--force-reinstall torch torchvision" in examine_library("torchvision", "0.25").advice


def test_reasons_are_made_harmless_before_they_reach_a_terminal(monkeypatch, capsys):
    hostile = doctor.Examined("torch", "broken", "\x1b[2J", "reinstall it")
    monkeypatch.setattr(doctor, "examine", lambda folder, assets: iter([hostile]))
    assert main(["doctor"]) == 5
    assert "\\u{1b}[2J; reinstall it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "status"), [("2.9.1", "broken"), ("2.10.0a0+cpu", "ok"), ("2.15.0+cu132", "ok")]
)
def test_versions_are_compared_as_numbers(monkeypatch, version, status):
    monkeypatch.setitem(sys.modules, "fake", SimpleNamespace(__version__=version))
    assert examine_library("fake", "2.10").status == status


def test_a_torchvision_that_fails_only_when_used_is_broken_too(monkeypatch):
    assert examine_torchvision().status == "ok"
    monkeypatch.setattr("torchvision.ops.nms", wrecked)
    line = examine_torchvision()
    assert (line.status, "\n" in line.detail) == ("broken", False)


def test_a_missing_gpu_is_a_note_and_never_breaks(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert examine_torch_cuda().status == "note"
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert examine_onnxruntime().status == "note"
    both = [SimpleNamespace(name=name) for name in ("onnxruntime", "onnxruntime-gpu")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: both)
    assert "onnxruntime, onnxruntime-gpu" in examine_onnxruntime().detail  # over each other


@pytest.mark.parametrize(("driver", "says"), [(True, "cannot start"), (False, "driver")])
def test_a_cuda_build_that_silently_runs_on_the_cpu_is_noted(monkeypatch, driver, says):
    def on_cpu(model, providers):
        assert driver, "CUDA was tried without one"
        assert providers[0] == "CUDAExecutionProvider"
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    monkeypatch.setattr("onnxruntime.InferenceSession", on_cpu)
    monkeypatch.setattr("clipguard.export.gpu.cuda_driver", lambda: driver)
    found = examine_onnxruntime()
    assert (found.status, says in found.detail) == ("note", True)


@pytest.mark.parametrize(
    ("kind", "status"), [("bubblewrap", "ok"), ("process", "note"), ("none", "note")]
)
def test_what_opens_a_checkpoint_is_told(monkeypatch, kind, status):
    monkeypatch.setattr("clipguard.checkpoint.sandbox.Guard.kind", kind)
    line = examine_sandbox()
    assert (line.status, kind in line.detail, bool(line.advice)) == (status, True, status != "ok")


def test_an_unwritable_folder_and_a_full_disk_are_broken(tmp_path, monkeypatch):
    folders = (tmp_path, tmp_path / "missing")
    assert [examine_folder(folder).status for folder in folders] == ["ok", "broken"]
    assert not list(tmp_path.iterdir())
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    line = examine_disk(tmp_path)
    assert (line.status, line.detail) == ("broken", "0.01 GB free")


def test_bundled_files_are_checked_one_by_one(tmp_path):
    assert "broken" in examine_assets(tmp_path).detail
    digest = hashlib.sha256(b"data").hexdigest()
    (tmp_path / DIGESTS).write_text(f"{digest}  deep/file.bin\n")
    assert examine_assets(tmp_path).detail == "deep/file.bin is missing"
    (tmp_path / "deep").mkdir()
    for content, status in ((b"data", "ok"), (b"Data", "broken")):
        (tmp_path / "deep" / "file.bin").write_bytes(content)
        assert examine_assets(tmp_path).status == status


def test_every_bundled_file_is_in_the_list_with_its_digest():
    folder = asset("")
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix not in ("", ".md"))
    found = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
    assert read_digests(folder / DIGESTS) == found, (
        "in clipguard/assets run: find . -type f ! -name SHA256SUMS ! -name '*.md' -printf '%P\\n' "
        "| LC_ALL=C sort | xargs sha256sum > SHA256SUMS"
    )
