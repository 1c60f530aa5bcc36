from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
from pathlib import Path

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


def module(folder, monkeypatch, name, text):
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def test_a_working_machine_exits_0_with_one_line_per_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line[7:27].strip() for line in lines]
    assert named[:7] == ["python", *REQUIRED]
    assert named[7:] == [
        "torchvision + torch",
        "torch on CUDA",
        "onnxruntime on CUDA",
        "lab base effnet",
        "current folder",
        "disk",
        "bundled files",
    ]
    assert {line[:7].strip() for line in lines} <= {"ok", "note"}


def test_one_broken_thing_exits_5_and_json_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(doctor.REQUIRED, "onnx", "99.0")
    assert main(["doctor", "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    broken = [check for check in document["checks"] if check["status"] == "broken"]
    assert [check["name"] for check in broken] == ["onnx"]
    assert "at least 99.0 is needed" in broken[0]["detail"]
    assert broken[0]["advice"] == "pip install --upgrade 'onnx>=99.0'"


def test_required_versions_are_those_of_the_package():
    wanted = {PACKAGES.get(name, name): oldest for name, oldest in REQUIRED.items()}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package, oldest in wanted.items():
        found = re.findall(rf'^  "{package}(?:-gpu)?>=([\d.]+)', text, re.MULTILINE)
        assert set(found) == {oldest}, package


def test_a_library_that_fails_to_import_is_broken_with_its_reason(tmp_path, monkeypatch):
    module(tmp_path, monkeypatch, "wrecked", "raise RuntimeError('no operator \\x1b[2J\\nmore')")
    line = examine_library("wrecked", "1.0")
    assert (line.status, line.advice) == ("broken", "pip install --upgrade 'wrecked>=1.0'")
    assert line.detail == "cannot be imported: no operator \x1b[2J"


def test_reasons_are_made_harmless_before_they_reach_a_terminal(monkeypatch, capsys):
    hostile = doctor.Examined("torch", "broken", "\x1b[2J", "reinstall it")
    monkeypatch.setattr(doctor, "examine", lambda folder, assets: iter([hostile]))
    assert main(["doctor"]) == 5
    assert "\\u{1b}[2J; reinstall it" in capsys.readouterr().out


def test_a_library_that_is_missing_is_broken():
    assert examine_library("no_such_library", "1.0").detail.startswith("cannot be imported: No mod")


@pytest.mark.parametrize(
    ("version", "status"), [("2.9.1", "broken"), ("2.10.0a0+cpu", "ok"), ("2.15.0+cu132", "ok")]
)
def test_versions_are_compared_as_numbers(tmp_path, monkeypatch, version, status):
    name = "fake_" + "".join(c if c.isalnum() else "_" for c in version)
    module(tmp_path, monkeypatch, name, f"__version__ = {version!r}")
    assert examine_library(name, "2.10").status == status


def test_torchvision_of_another_build_than_torch_is_named_as_such(monkeypatch):
    def wrecked(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", wrecked)
    line = examine_library("torchvision", "0.25")
    assert line.status == "broken"
    assert "pip install --force-reinstall torch torchvision" in line.advice


def test_a_torchvision_that_fails_only_when_used_is_broken_too(monkeypatch):
    assert examine_torchvision().status == "ok"

    def wrecked(*_):
        raise RuntimeError("Couldn't load custom C++ ops\nlong story")

    monkeypatch.setattr("torchvision.ops.nms", wrecked)
    line = examine_torchvision()
    assert (line.status, "\n" in line.detail) == ("broken", False)


def test_a_missing_gpu_is_a_note_and_never_breaks(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert examine_torch_cuda().status == "note"
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert examine_onnxruntime().status == "note"


def test_a_cuda_build_that_silently_runs_on_the_cpu_is_noted(monkeypatch):
    class OnCpu:
        def __init__(self, model, providers):
            assert providers[0] == "CUDAExecutionProvider"

        def get_providers(self):
            return ["CPUExecutionProvider"]

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    monkeypatch.setattr("onnxruntime.InferenceSession", OnCpu)
    monkeypatch.setattr("clipguard.export.gpu.cuda_driver", lambda: True)
    assert "cannot start CUDA" in examine_onnxruntime().detail


def test_a_cuda_build_is_not_even_started_without_a_driver(monkeypatch):
    def never(*given, **named):
        pytest.fail("CUDA was tried")

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    monkeypatch.setattr("onnxruntime.InferenceSession", never)
    monkeypatch.setattr("clipguard.export.gpu.cuda_driver", lambda: False)
    found = examine_onnxruntime()
    assert (found.status, "no NVIDIA driver" in found.detail) == ("note", True)


def test_two_builds_of_onnxruntime_over_each_other_are_noted(monkeypatch):
    class Distribution:
        def __init__(self, name):
            self.name = name

    both = [Distribution("onnxruntime"), Distribution("onnxruntime-gpu")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: both)
    assert "onnxruntime, onnxruntime-gpu" in examine_onnxruntime().detail


def test_an_unwritable_folder_and_a_full_disk_are_broken(tmp_path, monkeypatch):
    assert examine_folder(tmp_path).status == "ok"
    assert examine_folder(tmp_path / "missing").status == "broken"
    assert not list(tmp_path.iterdir())
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    line = examine_disk(tmp_path)
    assert (line.status, line.detail) == ("broken", "0.01 GB free")


def test_bundled_files_are_checked_one_by_one(tmp_path):
    assert "is missing or broken" in examine_assets(tmp_path).detail
    digest = hashlib.sha256(b"data").hexdigest()
    (tmp_path / DIGESTS).write_text(f"{digest}  deep/file.bin\n")
    assert examine_assets(tmp_path).detail == "deep/file.bin is missing"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.bin").write_bytes(b"data")
    assert examine_assets(tmp_path).status == "ok"
    (tmp_path / "deep" / "file.bin").write_bytes(b"Data")
    assert examine_assets(tmp_path).detail == "deep/file.bin was changed"


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
