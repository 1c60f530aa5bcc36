"""What a pass is worth: counts of planted backdoors that the pipeline fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import stripes_probe
from processes import ROOT, run_python
from pydantic import ValidationError
from samples import clean_detector, passing

from clipguard.audit.coverage import UNMEASURED, coverage
from clipguard.detect.null_band import read_null_band
from clipguard.detect.power import AGAINST_FILE, FILE, Counted, power_of, shipped_power
from clipguard.probe.intervals import wilson
from clipguard.record import CoverageRecord, PowerRecord, Rate
from clipguard.report.formats.html import Html
from clipguard.report.formats.markdown import Markdown
from clipguard.report.formats.text import Text
from clipguard.resources import asset

ROW = PowerRecord(attack="badnets", side="calibration", failed=Rate(**wilson(2, 3)._asdict()))


def test_only_pipelines_that_a_null_band_ships_for_have_counts():
    keys = {read_null_band(path).calibration.key for path in asset("calibration").glob("*.json")}
    assert set(shipped_power().pipelines) <= keys
    assert power_of("nano-rn/standard/another") == ()


@pytest.mark.parametrize("key", sorted(shipped_power().pipelines))
def test_every_count_is_told_with_the_interval_of_so_few_victims(key: str):
    for row, counted in zip(power_of(key), shipped_power().pipelines[key], strict=True):
        assert row.failed.value == counted.failed / counted.planted
        assert row.failed.low < row.failed.value < row.failed.high or row.failed.value in (0, 1)


def test_a_search_of_unknown_power_says_so():
    assert UNMEASURED in coverage(clean_detector(), stripes_probe()).not_tested
    known = coverage(clean_detector(), stripes_probe(), (ROW,))
    assert UNMEASURED not in known.not_tested
    assert known.power == (ROW,)


@pytest.mark.parametrize("side", ["calibration", "test"])
@pytest.mark.parametrize("renderer", [Html(), Markdown(), Text()], ids=lambda r: type(r).__name__)
def test_every_rendering_of_a_pass_says_what_it_is_worth(renderer, side: str, tmp_path: Path):
    power = (ROW.model_copy(update={"side": side}),)
    known = passing().model_copy(update={"coverage": CoverageRecord(power=power)})
    shown = renderer.render(known, tmp_path)
    assert "badnets" in shown
    assert "2 of 3" in shown
    assert ("flatter" in shown) is (side == "calibration")
    assert "badnets" not in renderer.render(passing(), tmp_path)


@pytest.mark.parametrize("file", [FILE, AGAINST_FILE])
def test_the_shipped_counts_are_what_their_command_makes_of_the_kept_bench(
    file: str, tmp_path: Path
):
    _, tool, kept = shipped_power(file).command.split()
    run_python(tool, kept, "-o", tmp_path / file, code=0)
    made, shipped = (json.loads((at / file).read_text()) for at in (tmp_path, asset("")))
    assert {**made, "command": ""} == {**shipped, "command": ""}


def test_a_bench_of_both_sides_and_more_failed_than_planted_are_refused(tmp_path: Path):
    kept = json.loads((ROOT / shipped_power().command.split()[-1]).read_text())
    first = next(row for row in kept["rows"] if row["entry"]["kind"] == "poisoned")
    first["entry"]["split"] = "test"
    (tmp_path / "bench.json").write_text(json.dumps(kept))
    done = run_python(
        "tools/count_power.py", tmp_path / "bench.json", "-o", tmp_path / FILE, code=2
    )
    assert "one side" in done.stderr
    with pytest.raises(ValidationError, match="4 of 3"):
        Counted(attack="badnets", failed=4, planted=3)
