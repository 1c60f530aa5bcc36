"""From excess to probability: a curve that few models cannot make certain."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clipguard.detect.score import FILE, Suspicion, shipped_suspicion
from clipguard.resources import asset

ROOT = Path(__file__).parents[2]
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


def test_one_kind_of_model_is_no_ground_for_a_curve():
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


def fit(bench: str, output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/fit_suspicion.py", bench, "-o", str(output)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_shipped_curve_is_what_its_command_makes_of_the_kept_bench(tmp_path: Path):
    *command, bench = shipped_suspicion().command.split()
    assert command == ["python", "tools/fit_suspicion.py"]
    done = fit(bench, tmp_path / FILE)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / FILE).read_bytes() == asset(FILE).read_bytes()
    assert '"auroc"' in done.stdout


def test_a_bench_of_the_test_side_is_refused(tmp_path: Path):
    kept = ROOT / "benchmarks/results/bench-detect-small.json"
    peeked = tmp_path / "bench.json"
    peeked.write_text(kept.read_text().replace('"split": "calibration"', '"split": "test"'))
    done = fit(str(peeked), tmp_path / FILE)
    assert done.returncode == 2
    assert "only a bench of the calibration side" in done.stderr
    assert not (tmp_path / FILE).exists()
