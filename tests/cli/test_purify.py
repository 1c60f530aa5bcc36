"""`clipguard purify`: a head with its rates, and exit 7 when the policy's limits are missed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipguard.audit import release
from clipguard.checkpoint.inspection import sha256_of
from clipguard.cli.app import main
from clipguard.errors import ExportError
from clipguard.purify.head_file import load_head
from clipguard.purify.repair import repair
from clipguard.record.schema import read_record
from clipguard.resources import shipped

pytest_plugins = ["nano_models"]

pytestmark = pytest.mark.usefixtures("tiny")

LIMITS = {
    "lenient": {"asr: 0.05": "asr: 1.0", "loss: 0.02": "loss: 1.0", "ratio: 0.8": "ratio: 0.0"},
    "harsh": {"asr: 0.05": "asr: 0.0"},
}


def policy(folder: Path, kind: str) -> str:
    text = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
    for old, new in LIMITS[kind].items():
        assert old in text
        text = text.replace(old, new)
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return str(folder / "mine.yaml")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, null_band: Callable[[float], None]) -> None:
    """No new trigger gets through the purified head, and clean models show stronger ones."""
    null_band(9.0)

    def repaired(*given: Any, **named: Any) -> Any:
        record, head = repair(*given, **named)
        weak = {"statistic": -9.0, "searched": True, "settled": True}
        weakened = [row.model_copy(update=weak) for row in record.reinversion]
        return record.model_copy(update={"reinversion": tuple(weakened)}), head

    monkeypatch.setattr(release, "repair", repaired)


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The export fails at once."""

    def fail(*_: object, **__: object) -> None:
        raise ExportError("no export here")

    monkeypatch.setattr(release, "write_onnx", fail)


@pytest.mark.usefixtures("held")
def test_limits_that_are_met_exit_0_and_leave_head_classifier_and_report(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    limits = policy(tmp_path, "lenient")
    assert main(["purify", str(nano), "-o", str(out), "--policy", limits, "-q"]) == 0
    shown = capsys.readouterr()
    before, after, statement = shown.out.splitlines()
    for line, word in ((before, "before"), (after, "after")):
        assert line.startswith(word)
        assert all(name in line for name in ("ASR", "CA", "PA"))
    assert "image tower" in statement
    assert shown.err == f"report: {out / 'report.html'}\n"
    classes, names, _ = load_head(out / "head.safetensors", sha256_of(nano))
    assert classes.shape == (100, 256)
    assert len(names) == 100
    record = read_record(out / "audit.json")
    assert (record.export.file, record.export.head) == ("purified.onnx", "purified")
    assert (out / "purified.onnx").is_file()


@pytest.mark.usefixtures("no_export")
def test_limits_that_are_missed_exit_7_and_say_which(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    limits = policy(tmp_path, "harsh")
    out = tmp_path / "out"
    assert main(["purify", str(nano), "-o", str(out), "--policy", limits, "-q"]) == 7
    assert "missed: " in capsys.readouterr().err
    assert (out / "head.safetensors").is_file()


@pytest.mark.usefixtures("held", "no_export")
def test_an_export_that_failed_is_not_hidden_by_limits_that_are_met(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    limits = policy(tmp_path, "lenient")
    assert main(["purify", str(nano), "-o", str(tmp_path / "out"), "--policy", limits, "-q"]) == 6
    assert "no export here" in capsys.readouterr().err


def test_too_few_images_are_inconclusive(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("cat", "dog"):
        (tmp_path / "probe" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "probe" / name / "1.png")
    command = ["purify", str(nano), "-o", str(tmp_path / "out"), "-q"]
    assert main([*command, "--probe-data", str(tmp_path / "probe")]) == 3
    assert "at least 20 are needed" in capsys.readouterr().err
    assert not (tmp_path / "out" / "head.safetensors").exists()
