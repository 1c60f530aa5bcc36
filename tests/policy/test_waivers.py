"""Waivers: one line of one model, for a time, and never silently."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from pathlib import Path

import pytest
from samples import (
    changed_policy,
    clean_detector,
    failing,
    guilty_detector,
    rate,
    refused,
    unjudged,
)

from clipguard.errors import POLICY_VIOLATED, UsageError
from clipguard.policy.judge import Waivers, judge, load_policy, load_waivers
from clipguard.policy.release import stands_alone
from clipguard.record import Decision, GateRecord, Outcome

TODAY = date(2026, 6, 1)
MODEL = "5f" * 32
TARGET = "hot air balloon"
GUILTY = unjudged(detectors=(guilty_detector(),))
"""Fails by two lines, both about one class."""


def written(folder: Path, *rows: dict[str, object]) -> Path:
    lines = ["version: 1", "waivers:"]
    for row in rows:
        first, *more = (f"{key}: {value}" for key, value in row.items())
        lines += [f"  - {first}", *(f"    {one}" for one in more)]
    (folder / "waivers.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "waivers.yaml"


def waiver(check: object = "backdoor.max_score", **changes: object) -> dict[str, object]:
    """A good waiver for `GUILTY`; a change to None leaves the key out."""
    row = {
        "check": check,
        "target": TARGET,
        "sha256": MODEL,
        "reason": "a natural trigger, seen on the base",
        "owner": "vision team",
        "expires": TODAY + timedelta(days=30),
    } | changes
    return {key: value for key, value in row.items() if value is not None}


BOTH = (waiver(), waiver("backdoor.strong_asr"))


def given(folder: Path, *rows: dict[str, object]) -> Waivers:
    return load_waivers(written(folder, *rows), TODAY)


def decide(folder: Path, *rows: dict[str, object]) -> GateRecord:
    return judge(load_policy("default"), GUILTY, given(folder, *rows))


def states(gate: GateRecord) -> list[str]:
    return [row.state for row in gate.waivers]


def test_every_line_waived_is_a_pass_that_says_so(tmp_path: Path):
    gate = decide(tmp_path, *BOTH)
    assert (gate.decision, gate.exit_code, states(gate)) == (Decision.PASS, 0, ["used", "used"])
    waived = [check for check in gate.checks if check.waived]
    assert {(check.key, check.result, check.counts) for check in waived} == {
        (row["check"], Decision.FAIL, False) for row in BOTH
    }
    assert len(gate.reasons) == 2
    assert all("vision team" in reason for reason in gate.reasons)
    assert [one.outcome for one in gate.conclusions] == [Outcome.BACKDOORED]
    assert stands_alone(gate)


def test_a_line_without_a_waiver_still_fails(tmp_path: Path):
    gate = decide(tmp_path, waiver())
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, POLICY_VIOLATED)
    assert states(gate) == ["used"]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"expires": TODAY}, "used"),
        ({"expires": TODAY - timedelta(days=1)}, "expired"),
        ({"expires": TODAY + timedelta(days=180)}, "used"),
        ({"expires": TODAY + timedelta(days=181)}, "too_broad"),
        ({"sha256": "ab" * 32}, "other_model"),
        ({"target": "teapot"}, "unused"),
        ({"target": None}, "too_broad"),
        ({"check": "backdoor.max_gap"}, "unused"),
        ({"check": "backdoor"}, "too_broad"),
        ({"check": "audit.complete"}, "too_broad"),
        ({"check": "export.max_relative_error"}, "too_broad"),
        ({"check": "backdoor.references"}, "too_broad"),
        ({"check": "'*'"}, "too_broad"),
    ],
)
def test_only_a_waiver_in_force_changes_a_decision(
    tmp_path: Path, change: dict[str, object], state: str
):
    gate = decide(tmp_path, waiver("backdoor.strong_asr"), waiver(**change))
    assert states(gate) == ["used", state]
    assert [bool(row.why) for row in gate.waivers] == [False, state == "too_broad"]
    assert gate.decision is (Decision.PASS if state == "used" else Decision.FAIL)


def test_a_line_about_no_class_is_waived_without_one(tmp_path: Path):
    record = unjudged(probe=unjudged().probe.model_copy(update={"clean_accuracy": rate(0.1)}))
    few = waiver("coverage.min_clean_accuracy", target=None)
    gate = judge(load_policy("default"), record, given(tmp_path, few))
    assert (gate.decision, states(gate)) == (Decision.PASS, ["used"])


def test_a_refused_file_and_an_error_cannot_be_waived(tmp_path: Path):
    rows = [waiver(key, target=None) for key in ("audit.refused", "audit.errors")]
    gate = judge(load_policy("default"), refused(), given(tmp_path, *rows))
    assert (gate.exit_code, states(gate)) == (4, ["too_broad", "too_broad"])


def test_what_is_waived_needs_no_repair(tmp_path: Path):
    """A repair that misses its limits does not count where no pass rests on it."""
    policy = changed_policy(tmp_path, repaired_may_pass="true", max_asr="0.0")
    gate = judge(load_policy(policy), failing(), given(tmp_path, *BOTH))
    assert gate.decision is Decision.PASS
    repair = [check for check in gate.checks if check.key.startswith("purification.")]
    assert {check.counts for check in repair} == {False}
    assert Decision.FAIL in {check.result for check in repair}


def test_a_passing_model_uses_no_waiver(tmp_path: Path):
    record = unjudged(detectors=(clean_detector(),))
    gate = judge(load_policy("default"), record, given(tmp_path, waiver()))
    assert (gate.decision, gate.reasons, states(gate)) == (Decision.PASS, (), ["unused"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owner": None}, "line 3: missing waiver key waivers.0.owner"),
        ({"reason": "''"}, "waivers.0.reason"),
        ({"sha256": "all"}, "waivers.0.sha256"),
        ({"expires": "never"}, "waivers.0.expires"),
        ({"expiry": "2026-12-01"}, "'expiry', did you mean 'expires'"),
    ],
)
def test_a_waiver_file_with_a_mistake_is_refused_with_its_line(
    tmp_path: Path, change: dict[str, object], message: str
):
    with pytest.raises(UsageError, match=message) as caught:
        load_waivers(written(tmp_path, waiver(**change)), TODAY)
    assert "\n" not in str(caught.value)


def test_the_digest_of_the_file_is_kept(tmp_path: Path):
    gate = decide(tmp_path, *BOTH)
    data = (tmp_path / "waivers.yaml").read_bytes()
    assert gate.waivers_sha256 == hashlib.sha256(data).hexdigest()


def test_a_family_that_was_not_searched_is_waived_by_its_name_alone(tmp_path: Path):
    families = tuple(
        row.model_copy(update={"tested": row.family not in ("additive", "frequency")})
        for row in clean_detector().families
    )
    detector = clean_detector().model_copy(update={"families": families})
    rows = [waiver(key, target="additive") for key in ("coverage.families", "backdoor.families")]
    policy, record = load_policy("default"), unjudged(detectors=(detector,))
    gate = judge(policy, record, given(tmp_path, *rows))
    assert (gate.decision, states(gate)) == (Decision.INCONCLUSIVE, ["used", "used"])
    waived = {check.target for check in gate.checks if check.waived}
    assert waived == {"additive"}, "the other family stays a reason"
