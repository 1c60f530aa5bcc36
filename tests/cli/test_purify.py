"""`clipguard purify`: a head with its rates, and exit 7 when the policy's limits are missed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image
from samples import changed_policy

from clipguard.audit import release
from clipguard.checkpoint.inspection import sha256_of
from clipguard.cli.app import main
from clipguard.errors import ExportError
from clipguard.purify.files import load_head
from clipguard.purify.repair import repair
from clipguard.record.schema import read_record

pytest_plugins = ["nano_models"]

pytestmark = pytest.mark.usefixtures("tiny")

LENIENT = {"max_asr": "1.0", "max_clean_accuracy_loss": "1.0", "min_poisoned_accuracy_ratio": "0.0"}


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
    monkeypatch.setattr(release, "write_onnx", Mock(side_effect=ExportError("no export here")))


@pytest.mark.usefixtures("held")
def test_limits_that_are_met_exit_0_and_leave_head_classifier_and_report(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    limits, out = changed_policy(tmp_path, **LENIENT), tmp_path / "out"
    command = ["purify", str(nano), "-o", str(out), "--policy", str(limits), "-q"]
    assert main([*command, "--purifier", "realign+cbpt"]) == 0
    shown = capsys.readouterr()
    before, after, statement = shown.out.splitlines()
    for line, word in ((before, "before"), (after, "after")):
        assert line.startswith(word)
        assert all(name in line for name in ("ASR", "CA", "PA"))
    assert "image tower" in statement
    assert shown.err == f"report: {out / 'report.html'}\n"
    classes, names, *_ = load_head(
        out / "head.safetensors", sha256_of(out / "repaired.safetensors")
    )
    assert classes.shape == (100, 256)
    assert len(names) == 100
    record = read_record(out / "audit.json")
    assert (record.export.file, record.export.head) == ("purified.onnx", "purified")
    assert (out / "purified.onnx").is_file()


@pytest.mark.usefixtures("no_export")
def test_limits_that_are_missed_exit_7_and_say_which(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    limits, out = changed_policy(tmp_path, max_asr="0.0"), tmp_path / "out"
    assert main(["purify", str(nano), "-o", str(out), "--policy", str(limits), "-q"]) == 7
    assert "missed: " in capsys.readouterr().err
    assert (out / "head.safetensors").is_file()


@pytest.mark.usefixtures("held", "no_export")
def test_an_export_that_failed_is_not_hidden_by_limits_that_are_met(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    limits = changed_policy(tmp_path, **LENIENT)
    assert (
        main(["purify", str(nano), "-o", str(tmp_path / "out"), "--policy", str(limits), "-q"]) == 6
    )
    assert "no export here" in capsys.readouterr().err


@pytest.mark.usefixtures("no_export")
def test_with_a_reference_the_repair_starts_half_way_to_it(
    nano: Path, clean_models: list[Path], tmp_path: Path
):
    out = tmp_path / "out"
    command = ["purify", str(nano), "--reference", str(clean_models[1]), "-o", str(out), "-q"]
    assert main(command) == 7
    record = read_record(out / "audit.json")
    assert record.reference.name == clean_models[1].name
    assert record.purification.halfway


def test_too_few_images_are_inconclusive(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "probe" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "probe" / name / "1.png")
    command = ["purify", str(nano), "-o", str(tmp_path / "out"), "-q"]
    assert main([*command, "--probe-data", str(tmp_path / "probe")]) == 3
    assert "at least 20 are needed" in capsys.readouterr().err
    assert not (tmp_path / "out" / "head.safetensors").exists()
