"""The way of a scan as a library: what the null band decides, and what is released then."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from audits import decision, scan
from samples import export

from clipguard.audit import release
from clipguard.detect.text_tokens import TextTokens
from clipguard.errors import (
    REFUSED,
    ClipguardError,
    ExportError,
    InconclusiveError,
    UsageError,
)
from clipguard.export.onnx import ExportJob
from clipguard.export.session import open_session
from clipguard.probe import rates
from clipguard.purify.methods.cbpt import Cbpt
from clipguard.record import AuditRecord, Decision, ExportRecord, Outcome, RefusedRecord
from clipguard.record.schema import read_record

pytest_plugins = ["nano_models"]

ABOVE, BELOW = 1.0, -30.0  # where a null band starts, seen from what a tiny search finds


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def export_at_once(monkeypatch: pytest.MonkeyPatch, **measured: float) -> None:
    """Write an empty file for an export, and say that this was measured on it."""

    def write(job: ExportJob, path: Path, **_: object) -> ExportRecord:
        path.touch()
        return export(**measured)

    monkeypatch.setattr(release, "write_onnx", write)


def outcomes(record: AuditRecord) -> list[Outcome]:
    return [one.outcome for one in record.gate.conclusions]


@pytest.mark.usefixtures("settled")
def test_a_model_inside_the_null_band_passes_and_is_exported_as_it_is(
    nano: Path, null_band: Callable[[float], None], tmp_path: Path
):
    null_band(ABOVE)
    record = scan(nano, tmp_path)
    assert (record.gate.decision, record.gate.exit_code) == (Decision.PASS, 0), record.gate.reasons
    assert outcomes(record) == [Outcome.NO_EVIDENCE] * 2
    assert record.purification is None
    assert (record.export.file, record.export.head) == ("model.onnx", "zero-shot")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"audit.json", "model.onnx", "triggers"}
    assert read_record(tmp_path / "out" / "audit.json") == record


@pytest.mark.usefixtures("tiny")
def test_a_search_that_did_not_settle_is_not_a_pass(
    nano: Path, null_band: Callable[[float], None], tmp_path: Path
):
    null_band(ABOVE)
    record = scan(nano, tmp_path, export="none")
    assert outcomes(record) == [Outcome.INCONCLUSIVE, Outcome.NO_EVIDENCE]
    assert decision(record) is Decision.INCONCLUSIVE


@pytest.mark.usefixtures("settled")
def test_an_exported_file_that_misses_a_limit_of_the_policy_is_not_kept(
    nano: Path,
    null_band: Callable[[float], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    null_band(ABOVE)
    export_at_once(monkeypatch, relative_error=0.01)
    record = scan(nano, tmp_path)
    assert (record.gate.decision, record.gate.exit_code) == (Decision.FAIL, 6)
    assert not record.export.kept
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audit.json", "triggers"}


def test_a_mistyped_reference_leaves_an_earlier_report_alone(nano: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.json").write_text("earlier")
    with pytest.raises(UsageError, match="no file or folder at"):
        scan(nano, tmp_path, reference=tmp_path / "bsae.pt")
    assert (tmp_path / "out" / "audit.json").read_text() == "earlier"


@pytest.mark.usefixtures("tiny")
def test_without_a_null_band_words_are_tried_and_nothing_is_released(nano: Path, tmp_path: Path):
    record = scan(nano, tmp_path)
    assert decision(record) is Decision.INCONCLUSIVE
    assert record.export is None
    assert not list((tmp_path / "out").glob("*.onnx"))
    images, text = record.detectors
    assert (images.name, images.word_share) == ("inversion", None)
    assert text.name == "text_tokens"
    assert text.word_share is not None
    assert outcomes(record)[1] is Outcome.NO_EVIDENCE
    assert any(line.startswith("text triggers") for line in record.coverage.tested)
    assert record.times.seconds["text"] > 0


@pytest.mark.usefixtures("tiny")
def test_a_text_tower_whose_words_cannot_be_tried_is_not_tested_and_ends_nothing(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    refusal = InconclusiveError("no token is known")
    monkeypatch.setattr(TextTokens, "compare", Mock(side_effect=refusal))
    record = scan(nano, tmp_path, purify="never")
    assert [one.name for one in record.detectors] == ["inversion"]
    assert record.errors == ()
    assert not any("text triggers" in line for line in record.coverage.tested)
    missed = {row.what: row.why for row in record.coverage.not_tested}
    assert missed["text triggers"] == "no token is known"


@pytest.mark.usefixtures("tiny")
def test_a_model_far_outside_fails_even_though_it_is_purified(
    nano: Path, null_band: Callable[[float], None], tmp_path: Path
):
    null_band(BELOW)
    record = scan(nano, tmp_path, purifier="realign+cbpt")
    assert (record.gate.decision, record.gate.exit_code) == (Decision.FAIL, 1)
    assert outcomes(record)[0] is Outcome.BACKDOORED
    assert record.purification is not None
    assert (record.export.file, record.export.head) == ("purified.onnx", "purified")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    repaired = {"head.safetensors", "repaired.safetensors", "purified.onnx"}
    assert files == {"audit.json", "triggers"} | repaired
    out = tmp_path / "out"
    modes = {path.stat().st_mode & 0o777 for path in out.rglob("*.safetensors")}
    assert modes == {(out / "audit.json").stat().st_mode & 0o777}
    scope = open_session(out / "purified.onnx", "cpu").metadata["scope"]
    assert "NOT shown to meet these limits of policy default: purification." in scope


@pytest.mark.usefixtures("tiny")
def test_never_means_never(nano: Path, null_band: Callable[[float], None], tmp_path: Path):
    null_band(BELOW)
    record = scan(nano, tmp_path, purify="never")
    assert decision(record) is Decision.FAIL
    assert (record.purification, record.export) == (None, None)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("where", "method", "error"),
    [
        ("export", (release, "write_onnx"), ExportError("why")),
        ("purify", (Cbpt, "purify"), InconclusiveError("why")),
    ],
)
def test_a_stage_that_fails_is_told_and_does_not_hide_the_finding(
    where: str,
    method: tuple[object, str],
    error: ClipguardError,
    nano: Path,
    null_band: Callable[[float], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(*method, Mock(side_effect=error))
    null_band(BELOW)
    record = scan(nano, tmp_path)
    assert record.gate.exit_code == 1
    assert [(row.stage, row.message) for row in record.errors] == [(where, "why")]
    assert "audit.errors" in {check.key for check in record.gate.checks}
    assert read_record(tmp_path / "out" / "audit.json").detectors


@pytest.mark.usefixtures("tiny")
def test_an_interrupt_keeps_what_was_found_in_one_file(
    nano: Path,
    null_band: Callable[[float], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(Cbpt, "purify", Mock(side_effect=KeyboardInterrupt))
    null_band(BELOW)
    with pytest.raises(KeyboardInterrupt):
        scan(nano, tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["audit.json"]
    record = read_record(tmp_path / "out" / "audit.json")
    assert not record.complete
    assert decision(record) is Decision.FAIL  # the finding stands, whatever else is missing
    assert "detect" in record.times.seconds


@pytest.mark.usefixtures("settled")
def test_an_interrupt_while_files_are_moved_leaves_the_record_alone_and_the_folder_usable(
    nano: Path,
    null_band: Callable[[float], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    move = shutil.move

    def stop(source: str, target: Path) -> None:
        move(source, target)
        if target.name == "model.onnx":
            raise KeyboardInterrupt

    null_band(ABOVE)
    export_at_once(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("clipguard.report.folder.shutil.move", stop)
        with pytest.raises(KeyboardInterrupt):
            scan(nano, tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["audit.json"]
    record = read_record(tmp_path / "out" / "audit.json")
    assert not record.complete
    assert decision(record) is Decision.INCONCLUSIVE
    assert decision(scan(nano, tmp_path)) is Decision.PASS


@pytest.mark.usefixtures("tiny")
def test_a_calibration_for_other_scans_is_refused(nano: Path, tmp_path: Path):
    rows = ", ".join(
        f'{{"name": "{i}", "sha256": "{i}", "statistics": {{"patch": 0.0}}}}' for i in range(5)
    )
    band = tmp_path / "band.json"
    band.write_text(f'{{"key": "RN50/standard/0", "command": "", "models": [{rows}]}}')
    with pytest.raises(UsageError, match="the calibration is for RN50/standard/0, this scan is"):
        scan(nano, tmp_path, calibration=band)
    assert not (tmp_path / "out").exists()


def test_a_refused_file_leaves_no_temporary_folder(tmp_path: Path):
    (tmp_path / "model.pt").write_text("text")
    record = scan(tmp_path / "model.pt", tmp_path)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["audit.json"]
    assert record.gate.exit_code == REFUSED
    assert decision(record) is Decision.FAIL
    assert record.refused == RefusedRecord(
        name="model.pt",
        file="model.pt",
        sha256=hashlib.sha256(b"text").hexdigest(),
        size_bytes=4,
        rule="CG102",
        reason=record.refused.reason,
    )


@pytest.mark.usefixtures("tiny")
def test_the_least_number_of_images_is_what_the_message_says(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rates, "MIN_MEASURE", 5000)
    record = scan(nano, tmp_path)
    assert decision(record) is Decision.INCONCLUSIVE
    untested = record.coverage.not_tested[0]
    assert untested.what == "every trigger family"
    assert "at least 5000 are needed" in untested.why
    assert [found.name for found in record.detectors] == ["text_tokens"]
