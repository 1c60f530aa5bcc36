"""Scans that hold a model against a reference, from the file to the decision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from audits import decision, policy, scan

from clipguard.audit.options import Options, seed_of
from clipguard.bundled.nano import load_state
from clipguard.detect.differential import Differential
from clipguard.detect.four_rates import Measured
from clipguard.detect.roles import Finding
from clipguard.errors import REFUSED, BudgetSpentError, UsageError
from clipguard.policy.judge import judge, load_policy
from clipguard.probe.load import ProbeSource
from clipguard.record import CanaryRecord, Decision, Rate
from clipguard.record.schema import read_record
from clipguard.search.sides import Pair

pytest_plugins = ["nano_models"]
pytestmark = pytest.mark.usefixtures("tiny")
HIGH, LOW = 1e6, -1e6  # of a curve: nothing is suspicious, everything is


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """The bundled model with a little added to one matrix, the same everywhere."""
    state = load_state("nano-rn")
    state["visual.attnpool.k_proj.weight"] += 0.02
    torch.save(state, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


def test_a_model_that_shows_no_more_than_its_base_passes_without_a_null_band(
    nano: Path, changed: Path, tmp_path: Path, curve: Callable[[float], None]
):
    curve(HIGH)
    record = scan(changed, tmp_path, reference=nano)
    assert record.reference is not None
    assert (record.reference.role, record.reference.agreement) == ("base", 1.0)
    assert record.calibration.kind == "none"
    assert decision(record) is Decision.PASS
    assert (tmp_path / "out" / "model.onnx").exists()
    few = policy(tmp_path, max_change_concentration="0.3")  # and that was one direction
    assert judge(few, record).decision is Decision.INCONCLUSIVE


def test_a_model_that_shows_more_fails_and_is_purified(
    nano: Path, changed: Path, tmp_path: Path, curve: Callable[[float], None]
):
    curve(LOW)
    record = scan(changed, tmp_path, reference=nano, purifier="realign+cbpt")
    assert decision(record) is Decision.FAIL
    assert record.purification is not None
    assert record.purification.rescan is None  # it is as long as the first, and decides nothing
    assert {"purified.onnx", "head.safetensors", "repaired.safetensors", "triggers"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert record.detectors[0].candidates[0].trigger.picture is not None


@pytest.mark.parametrize(("purifier", "searches"), [("realign", 2), ("cbpt", 1)])
def test_a_repaired_tower_that_may_pass_is_searched_again_with_other_draws(
    purifier: str,
    searches: int,
    nano: Path,
    changed: Path,
    tmp_path: Path,
    curve: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
):
    curve(LOW)
    calls, compare = [], Differential.compare

    def spied(self: Differential, pair: Pair, *, seed: int, progress: Any) -> Iterator[Finding]:
        calls.append((seed, pair.suspect.model))
        return compare(self, pair, seed=seed, progress=progress)

    monkeypatch.setattr(Differential, "compare", spied)
    allowed = policy(tmp_path, repaired_may_pass="true")
    options = {"reference": nano, "policy": allowed, "purifier": purifier, "export": "none"}
    record = scan(changed, tmp_path, **options)
    assert len(set(calls)) == len(calls) == searches
    second = record.purification.rescan
    assert (second is None) is (purifier == "cbpt")
    assert second is None or second.score is not None  # by the curve of the first
    lines = {line.key for line in record.gate.checks}
    assert ("purification.second_scan" in lines) is (second is not None)


def test_the_fast_profile_needs_a_reference_and_a_policy_that_lets_it_pass(
    nano: Path, changed: Path, tmp_path: Path, curve: Callable[[float], None]
):
    with pytest.raises(UsageError):
        scan(changed, tmp_path, profile="fast")
    curve(HIGH)
    record = scan(changed, tmp_path, reference=nano, profile="fast")
    assert decision(record) is Decision.INCONCLUSIVE
    allowed = policy(tmp_path, min_profile="fast", families="[patch]")
    assert judge(allowed, record).decision is Decision.PASS


@pytest.mark.parametrize("other", ["itself", "itself, rounded", "another architecture"])
def test_the_model_itself_and_a_peer_pass_nothing_by_default(
    other: str, nano: Path, tmp_path: Path, curve: Callable[[float], None]
):
    curve(HIGH)
    state = load_state("nano-vit" if "architecture" in other else "nano-rn")
    if "rounded" in other:
        state = {key: value * 1.0001 for key, value in state.items()}
    torch.save(state, tmp_path / "other.pt")
    record = scan(nano, tmp_path, reference=tmp_path / "other.pt")
    assert decision(record) is Decision.INCONCLUSIVE
    assert not (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.parametrize("found", [True, False])
def test_where_the_limits_were_never_tested_a_pass_needs_a_canary_that_was_found(
    found: bool,
    nano: Path,
    changed: Path,
    tmp_path: Path,
    curve: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
):
    curve(HIGH)
    monkeypatch.setattr("clipguard.audit.pipeline.family_of", lambda _: "unheard-of")
    assert decision(scan(changed, tmp_path, reference=nano)) is Decision.INCONCLUSIVE
    monkeypatch.setattr("clipguard.detect.canary.Canary.sing", lambda *_, **__: sung(found))
    record = scan(changed, tmp_path, reference=nano, canary=True)
    assert record.detectors[0].canary == sung(found)
    assert decision(record) is (Decision.PASS if found else Decision.INCONCLUSIVE)


def sung(found: bool) -> CanaryRecord:
    share = Rate(value=0.99, low=0.98, high=1.0, n=99)
    few = Rate(value=0.01, low=0.0, high=0.05, n=99)
    target = "cup" if found else None
    return CanaryRecord(target="cup", asr=share, natural=few, found=target, gap=0.9)


def cut_after_one(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the search against a reference end after its first kind of trigger."""
    whole = Differential.measures

    def measures(search: Differential, *args: Any, **named: Any) -> Iterator[list[Measured]]:
        yield next(whole(search, *args, **named))
        raise error

    monkeypatch.setattr(Differential, "measures", measures)


@pytest.mark.parametrize(
    ("middle", "wanted"), [(HIGH, Decision.INCONCLUSIVE), (LOW, Decision.FAIL)]
)
def test_a_budget_that_runs_out_keeps_what_was_found_and_passes_nothing(
    middle: float,
    wanted: Decision,
    nano: Path,
    changed: Path,
    tmp_path: Path,
    curve: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
):
    curve(middle)
    cut_after_one(monkeypatch, BudgetSpentError("the budget of 9 s ran out"))
    record = scan(changed, tmp_path, reference=nano, purify="never")
    assert decision(record) is wanted
    assert record.gate.exit_code == (1 if wanted is Decision.FAIL else 3)
    tested = {row.family: row.tested for row in record.detectors[0].families}
    assert tested == {"patch": True, "additive": False, "frequency": False}
    assert any("budget" in error.message for error in record.errors)
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_an_interrupt_keeps_what_was_found(
    nano: Path,
    changed: Path,
    tmp_path: Path,
    curve: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
):
    curve(LOW)
    cut_after_one(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        scan(changed, tmp_path, reference=nano)
    record = read_record(tmp_path / "out" / "audit.json")
    assert not record.complete
    assert decision(record) is Decision.FAIL
    assert record.detectors[0].candidates


def test_further_targets_need_a_reference_and_stand_in_the_record(
    nano: Path, changed: Path, tmp_path: Path, curve: Callable[[float], None]
):
    (tmp_path / "words.txt").write_text("gramophone\nbanana\n")
    probe = ProbeSource(vocabulary=tmp_path / "words.txt")
    with pytest.raises(UsageError, match="--reference"):
        scan(changed, tmp_path, probe=probe)
    curve(HIGH)
    record = scan(changed, tmp_path, reference=nano, probe=probe)
    assert "1 further names as targets" in record.coverage.tested
    assert "--vocabulary words.txt" in record.command
    assert decision(record) is Decision.PASS


def test_a_reference_is_opened_as_warily_as_any_checkpoint(nano: Path, tmp_path: Path):
    (tmp_path / "base.pt").write_text("text")
    record = scan(nano, tmp_path, reference=tmp_path / "base.pt")
    assert record.refused is None
    assert record.errors[0].message.startswith("reference: base.pt: CG102 ")
    assert record.gate.exit_code == REFUSED


def test_the_seed_follows_from_the_weights_and_the_salt_unless_it_is_given(tmp_path: Path):
    plain, digest = load_policy("default"), "ab" * 32
    salted = policy(tmp_path, salt='"mine"')

    def seed(rules: Any, sha256: str, given: int | None = None) -> int:
        return seed_of(Options(policy=rules, seed=given), sha256)

    assert seed(plain, digest) == seed(plain, digest)
    assert len({seed(plain, digest), seed(plain, "cd" * 32), seed(salted, digest)}) == 3
    assert seed(salted, digest, 7) == 7
    assert 0 <= seed(plain, digest) < 2**31
