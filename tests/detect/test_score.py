"""From excess to probability: a curve that few models cannot make certain."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import ROOT, run_python
from pydantic import ValidationError

from clipguard.audit.profiles import PROFILES
from clipguard.detect.score import (
    AGAINST_FILE,
    FILE,
    Suspicion,
    curve_of,
    shipped_against,
    shipped_suspicion,
)
from clipguard.resources import asset

EXCESS = st.floats(-50, 50)


def fitted(poisoned: list[float], honest: list[float]) -> Suspicion:
    rows = [("base", x, True) for x in poisoned] + [("base", x, False) for x in honest]
    curve = runpy.run_path(str(ROOT / "tools/fit_suspicion.py"))["fitted"](rows, "", "")
    assert isinstance(curve, Suspicion)
    return curve


def test_models_that_are_apart_give_no_certainty():
    curve = fitted([10.0, 12.0, 14.0], [0.0, 1.0, 2.0])
    assert 0.75 < curve.probability(12.0) < 0.95
    assert 0.05 < curve.probability(1.0) < 0.35
    with pytest.raises(ValidationError, match="honest"):
        fitted([1.0, 2.0], [])


@given(EXCESS, EXCESS)
def test_more_excess_is_never_less_suspicious(one: float, other: float):
    curve = shipped_suspicion()
    low, high = sorted((one, other))
    assert 0 < curve.probability(low) <= curve.probability(high) < 1


def test_no_excess_is_too_large_for_the_curve():
    assert shipped_suspicion().probability(1e300) == 1.0
    assert 0 <= shipped_suspicion().probability(-1e300) < 1e-300


def test_the_shipped_curve_is_what_its_command_makes_of_the_kept_bench(tmp_path: Path):
    *command, bench = shipped_suspicion().command.split()
    assert command == ["python", "tools/fit_suspicion.py"]
    done = run_python(*command[1:], bench, "-o", tmp_path / FILE, code=0)
    assert (tmp_path / FILE).read_bytes() == asset(FILE).read_bytes()
    assert '"auroc"' in done.stdout


def test_a_bench_of_the_test_side_is_refused(tmp_path: Path):
    kept = (ROOT / "benchmarks/results/bench-detect-small.json").read_text()
    peeked = tmp_path / "bench.json"
    peeked.write_text(kept.replace('"split": "calibration"', '"split": "test"'))
    run_python("tools/fit_suspicion.py", peeked, "-o", tmp_path / FILE, code=2)
    assert not (tmp_path / FILE).exists()


ROWS = "benchmarks/results/differential-calibration.json"
FAST = "benchmarks/results/differential-fast.json"


def test_the_shipped_curves_over_v_are_what_their_command_makes_of_the_kept_rows(tmp_path: Path):
    assert {curve.command for curve in shipped_against().curves} == {
        f"python tools/fit_differential.py {ROWS} {FAST}"
    }
    run_python("tools/fit_differential.py", ROWS, FAST, "-o", tmp_path / AGAINST_FILE, code=0)
    assert (tmp_path / AGAINST_FILE).read_bytes() == asset(AGAINST_FILE).read_bytes()
    peeked = tmp_path / "rows.json"
    peeked.write_text((ROOT / ROWS).read_text().replace('"nano-rn badnets', '"nano-rn-1 badnets'))
    run_python("tools/fit_differential.py", peeked, "-o", tmp_path / "curves.json", code=2)
    assert not (tmp_path / "curves.json").exists()


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_a_curve_for_a_base_and_a_short_way_from_no_evidence_to_a_fail(name: str):
    curve = curve_of(PROFILES[name].differential, "base")
    assert curve is not None
    assert curve.families == ("nano-rn", "nano-vit")
    assert curve.probability(2.5) < 0.3
    assert curve.probability(6.0) > 0.5
