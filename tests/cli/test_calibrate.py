"""`clipguard calibrate`: a null band from known-clean models, and a scan that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipguard.calibrate import assemble
from clipguard.calibration import CleanModel, read_calibration
from clipguard.cli.app import main
from clipguard.errors import UsageError
from clipguard.schema import read_record

pytest_plugins = ["nano_models"]

pytestmark = pytest.mark.usefixtures("tiny")

BRIEF = ("--purify", "never", "--export", "none", "--quiet")


def test_five_clean_models_make_a_band_that_a_scan_compares_with(
    clean_models: list[Path], nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    band = tmp_path / "band.json"
    models = [str(path) for path in clean_models]
    assert main(["calibrate", *models, "-o", str(band), "--seed", "7", "-q"]) == 0
    assert capsys.readouterr().err.startswith("5 models, nano-rn/standard/")
    calibration = read_calibration(band).calibration
    assert [model.name for model in calibration.models] == [path.name for path in clean_models]
    assert {tuple(model.statistics) for model in calibration.models} == {("patch", "additive")}

    out = tmp_path / "out"
    main(["scan", str(nano), "-o", str(out), *BRIEF, "--calibration", str(band)])
    record = read_record(out / "audit.json")
    assert (record.calibration.kind, record.calibration.models) == ("models", 5)
    assert record.calibration.sha256 == read_calibration(band).sha256
    assert record.detectors[0].p_value is not None
    for family in record.detectors[0].families:
        assert len(family.null) == 5

    capsys.readouterr()
    other = ["scan", str(nano), "-o", str(tmp_path / "other"), *BRIEF, "--profile", "thorough"]
    assert main([*other, "--calibration", str(band)]) == 2
    assert "the calibration is for nano-rn/standard/" in capsys.readouterr().err


def test_too_few_models_are_refused_and_nothing_is_written(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["calibrate", str(nano), "-o", str(tmp_path / "band.json"), "-q"]) == 2
    err = capsys.readouterr().err
    assert "needs 5 known-clean models or more, got 1" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [({"sha256": "0"}, "one model was given twice"), ({"key": "b"}, "different null bands: a, b")],
)
def test_models_that_do_not_belong_together_make_no_band(change: dict[str, str], says: str):
    rows = [("a", CleanModel(name=f"{i}", sha256=f"{i}", statistics={})) for i in range(5)]
    key, last = rows[-1]
    rows[-1] = (change.get("key", key), last.model_copy(update=change))
    with pytest.raises(UsageError, match=says):
        assemble(rows, "clipguard calibrate")


def test_a_file_that_was_changed_is_no_calibration(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    content = {"key": "k", "command": "c", "models": [], "extra": 1}
    (tmp_path / "band.json").write_text(json.dumps(content))
    command = ["scan", str(nano), "-o", str(tmp_path / "out"), *BRIEF]
    assert main([*command, "--calibration", str(tmp_path / "band.json")]) == 2
    assert "band.json is no calibration file" in capsys.readouterr().err
