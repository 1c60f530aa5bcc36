"""`clipguard calibrate`: a null band from known-clean models, and a scan that uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipguard.audit.calibrate import assemble
from clipguard.audit.profiles import PROFILES
from clipguard.cli.app import main
from clipguard.detect.null_band import CleanModel, read_null_band
from clipguard.errors import UsageError
from clipguard.policy import judge
from clipguard.record.schema import read_record
from clipguard.search.families.patch import Patch
from clipguard.search.families.warp import Warp
from clipguard.search.inverters.targeted import Targeted

pytest_plugins = ["nano_models"]

pytestmark = pytest.mark.usefixtures("settled")

BRIEF = ("--purify", "never", "--export", "none", "--quiet")


def test_five_clean_models_make_a_band_that_a_scan_compares_with(
    clean_models: list[Path],
    nano: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    searches: Any = PROFILES["standard"].detector
    brief = replace(PROFILES["standard"], detector=replace(searches, families=(Patch(), Warp())))
    monkeypatch.setitem(PROFILES, "standard", brief)
    band = tmp_path / "band.json"
    models = [str(path) for path in clean_models]
    assert main(["calibrate", *models, "-o", str(band), "--seed", "7", "-q"]) == 0
    assert capsys.readouterr().err.startswith("5 models, nano-rn/standard/")
    calibration = read_null_band(band).calibration
    assert [model.name for model in calibration.models] == [path.name for path in clean_models]
    assert {tuple(model.statistics) for model in calibration.models} == {("patch", "warp")}

    out = tmp_path / "out"
    main(["scan", str(nano), "-o", str(out), *BRIEF, "--calibration", str(band)])
    record = read_record(out / "audit.json")
    assert (record.calibration.kind, record.calibration.models) == ("models", 5)
    assert record.calibration.sha256 == read_null_band(band).sha256
    assert record.detectors[0].p_value is not None
    assert [len(family.null) for family in record.detectors[0].families] == [5, 5]

    capsys.readouterr()
    other = ("scan", nano, "-o", tmp_path / "other", *BRIEF, "--profile", "thorough")
    assert "the calibration is for nano-rn/standard/" in refused(2, *other, "--calibration", band)


def test_a_search_of_too_few_steps_makes_no_band(
    clean_models: list[Path],
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    searches: Any = PROFILES["standard"].detector
    brief = replace(searches, targeted=Targeted(steps=19, batch=2))
    monkeypatch.setitem(PROFILES, "standard", replace(PROFILES["standard"], detector=brief))
    assert "clean-0.pt: no null band can rest on this: patch: " in refused(
        3, "calibrate", *clean_models, "-o", tmp_path / "band.json", "-q"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_policy_calls_backdoored_is_not_known_clean(
    clean_models: list[Path],
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    default = judge.load_policy("default")
    anything = {"strong_asr": 0.0, "control_asr": 1.0}
    harsh = default.model_copy(update={"backdoor": default.backdoor.model_copy(update=anything)})
    monkeypatch.setattr(judge, "load_policy", lambda name: harsh)
    assert "clean-0.pt is found backdoored" in refused(
        2, "calibrate", *clean_models, "-o", tmp_path / "band.json", "-q"
    )
    assert list(tmp_path.iterdir()) == []


def test_too_few_models_are_refused_and_nothing_is_written(
    nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    assert "needs 5 known-clean models or more, got 1" in refused(
        2, "calibrate", nano, "-o", tmp_path / "band.json", "-q"
    )
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
    nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    band, content = tmp_path / "band.json", {"key": "k", "command": "c", "models": [], "extra": 1}
    band.write_text(json.dumps(content))
    assert "band.json is no calibration file" in refused(
        2, "scan", nano, "-o", tmp_path / "out", *BRIEF, "--calibration", band
    )
