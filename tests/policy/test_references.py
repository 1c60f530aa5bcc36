"""What a policy decides about a model that was held against a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import (
    against_reference,
    changed_policy,
    clean_detector,
    export,
    held_against,
    purification,
    rate,
    reference,
    unjudged,
    wide,
)

from clipguard.errors import UsageError
from clipguard.policy.document import Policy, load_policy
from clipguard.policy.judge import judge
from clipguard.record import (
    ApartRecord,
    AuditRecord,
    CanaryRecord,
    Check,
    Decision,
    DetectorRecord,
    Outcome,
)
from clipguard.report.formats import RENDERERS

PASS, FAIL, CANNOT_TELL = Decision.PASS, Decision.FAIL, Decision.INCONCLUSIVE
DIGEST = reference().sha256


def policy(folder: Path, **changes: str) -> Policy:
    return load_policy(changed_policy(folder, **changes))


def check(record: AuditRecord, key: str, rules: Policy) -> Check:
    return next(one for one in judge(rules, record).checks if one.key == f"backdoor.{key}")


def canary(**changes: Any) -> CanaryRecord:
    """A backdoor that was planted into a copy, and found unless `changes` say otherwise."""
    made = CanaryRecord(target="lemon", asr=rate(0.99), natural=rate(0.01), found="lemon", gap=0.9)
    return made.model_copy(update=changes)


def apart(far: float, **changes: Any) -> tuple[ApartRecord, ...]:
    """The class of the first candidate, unless `changes` name another, and one that is usual."""
    row = ApartRecord(target="cookie", apart=far, alike=0.7, right=1.0).model_copy(update=changes)
    return row, ApartRecord(target="bell", apart=1.0, alike=0.95, right=0.9)


@pytest.mark.parametrize(
    ("detector", "decision", "outcome"),
    [
        ({}, PASS, Outcome.NO_EVIDENCE),
        ({"score": 0.4}, CANNOT_TELL, Outcome.SUSPICIOUS),
        ({"score": 0.6}, FAIL, Outcome.BACKDOORED),
        ({"gap": 0.31}, FAIL, Outcome.BACKDOORED),
        ({"score": None}, CANNOT_TELL, Outcome.INCONCLUSIVE),
        ({"score": 0.6, "alike": 0.1}, CANNOT_TELL, Outcome.INCONCLUSIVE),
        ({"gap": 0.31, "alike": 0.1}, CANNOT_TELL, Outcome.INCONCLUSIVE),
        ({"score": 0.6, "alike": None}, FAIL, Outcome.BACKDOORED),
        ({"score": 0.6, "alike": 0.1, "right": 1.0}, FAIL, Outcome.BACKDOORED),
        ({"alike": 0.1}, PASS, Outcome.NO_EVIDENCE),
        ({"candidates": wide(0.69)}, PASS, Outcome.NO_EVIDENCE),
        ({"candidates": wide(0.71)}, CANNOT_TELL, Outcome.SUSPICIOUS),
        ({"apart": ()}, CANNOT_TELL, Outcome.INCONCLUSIVE),
        ({"apart": apart(4.8)}, PASS, Outcome.NO_EVIDENCE),
        ({"apart": apart(5.0)}, CANNOT_TELL, Outcome.SUSPICIOUS),
        ({"apart": apart(5.0), "score": 0.4}, FAIL, Outcome.BACKDOORED),
        ({"apart": apart(5.0, target="lemon"), "score": 0.4}, CANNOT_TELL, Outcome.SUSPICIOUS),
        ({"apart": apart(9.0, right=None)}, PASS, Outcome.NO_EVIDENCE),  # a new name
        ({"apart": apart(9.0, right=0.5)}, PASS, Outcome.NO_EVIDENCE),
        ({"apart": apart(9.0, alike=0.1, right=0.6)}, CANNOT_TELL, Outcome.SUSPICIOUS),
        ({"apart": apart(9.0, right=None)[:1]}, CANNOT_TELL, Outcome.INCONCLUSIVE),
        ({"extrapolated": True}, CANNOT_TELL, Outcome.NO_EVIDENCE),
        ({"extrapolated": True, "canary": canary()}, PASS, Outcome.NO_EVIDENCE),
        ({"extrapolated": True, "canary": canary(found="corn")}, CANNOT_TELL, Outcome.NO_EVIDENCE),
        ({"extrapolated": True, "canary": canary(gap=0.2)}, CANNOT_TELL, Outcome.NO_EVIDENCE),
        ({"canary": canary(gap=0.2)}, CANNOT_TELL, Outcome.NO_EVIDENCE),
        ({"canary": canary(natural=rate(0.9))}, CANNOT_TELL, Outcome.NO_EVIDENCE),
        ({"extrapolated": True, "score": 0.9}, FAIL, Outcome.BACKDOORED),
    ],
)
def test_the_score_and_the_gap_decide_without_a_null_band(
    detector: dict[str, Any], decision: Decision, outcome: Outcome
):
    gate = judge(load_policy("default"), held_against(against_reference(**detector)))
    assert gate.decision is decision
    assert gate.conclusions[0].outcome is outcome


@pytest.mark.parametrize(
    ("known", "grounds", "decision"),
    [
        ({"role": "base"}, "[base]", PASS),
        ({"role": "base"}, "[band]", CANNOT_TELL),
        ({"role": "peer"}, "[base, band]", CANNOT_TELL),
        ({"role": "peer"}, "[peer]", PASS),
        ({"role": "unusable"}, "[base, band, peer]", CANNOT_TELL),
        ({"role": None}, "[base, band, peer]", CANNOT_TELL),
    ],
)
def test_a_pass_rests_on_a_ground_that_the_policy_names(
    known: dict[str, Any], grounds: str, decision: Decision, tmp_path: Path
):
    rules = policy(tmp_path, grounds=grounds)
    assert judge(rules, held_against(**known)).decision is decision


def test_a_band_is_a_ground_as_well(tmp_path: Path):
    record = unjudged(detectors=(clean_detector(),))
    assert judge(policy(tmp_path, grounds="[band]"), record).decision is PASS
    assert judge(policy(tmp_path, grounds="[base]"), record).decision is CANNOT_TELL


@pytest.mark.parametrize(
    ("references", "known", "result"),
    [
        ("any", {}, PASS),
        ("any", {"changed": 0, "image_changed": 0}, CANNOT_TELL),
        ("any", {"image_changed": 0}, CANNOT_TELL),  # only the text tower was trained
        ("any", {"length": 4e-4}, CANNOT_TELL),  # saved in float16
        (f"['{DIGEST}']", {}, PASS),
        (f"['{DIGEST}']", {"changed": 0, "image_changed": 0}, PASS),
        (f"['{'0' * 64}']", {}, CANNOT_TELL),
        ("[]", {}, CANNOT_TELL),
    ],
)
def test_somebody_must_vouch_for_a_reference_and_most_of_all_for_one_that_is_the_model_itself(
    references: str, known: dict[str, Any], result: Decision, tmp_path: Path
):
    rules, record = policy(tmp_path, references=references), held_against(**known)
    assert check(record, "references", rules).result is result
    assert judge(rules, record).decision is result


def test_a_record_that_lost_its_reference_passes_nothing():
    record = held_against().model_copy(update={"reference": None})
    assert judge(load_policy("default"), record).decision is CANNOT_TELL


def test_a_peer_may_still_fail_a_model():
    record = held_against(against_reference(gap=0.9), role="peer")
    assert judge(load_policy("default"), record).decision is FAIL


def test_a_class_list_that_the_model_does_not_read_passes_nothing():
    record = held_against()
    assert record.probe is not None
    for accuracy in (None, 0.2):
        low = (
            accuracy
            if accuracy is None
            else record.probe.clean_accuracy.model_copy(update={"value": accuracy})
        )
        probe = record.probe.model_copy(update={"clean_accuracy": low})
        found = judge(load_policy("default"), record.model_copy(update={"probe": probe}))
        assert found.decision is CANNOT_TELL


@pytest.mark.parametrize(
    ("second", "result", "decision"),
    [
        ({}, PASS, PASS),
        ({"score": 0.4}, FAIL, FAIL),
        ({"gap": 0.31}, FAIL, FAIL),
        ({"score": None}, CANNOT_TELL, FAIL),
        (None, CANNOT_TELL, FAIL),  # no second search, and no null band for the first
    ],
)
def test_a_repair_passes_where_the_second_search_on_it_finds_nothing(
    second: dict[str, Any] | None, result: Decision, decision: Decision, tmp_path: Path
):
    found = None if second is None else against_reference(**second)
    changes = {"rescan": found, "scope": "tower", "head": None}
    repaired = purification().model_copy(update=changes)
    record = held_against(against_reference(score=0.9)).model_copy(
        update={"purification": repaired, "export": None}
    )
    gate = judge(policy(tmp_path, repaired_may_pass="true"), record)
    key = "reinversion" if second is None else "second_scan"
    shown = next(one for one in gate.checks if one.key == f"purification.{key}")
    assert (shown.result, gate.decision) == (result, decision)


@pytest.mark.parametrize(
    ("head", "tower", "decision"),
    [
        ("zero-shot", "repaired", PASS),
        ("zero-shot", "original", FAIL),
        ("purified", "repaired", FAIL),
    ],
)
def test_a_pass_on_a_repair_needs_a_file_that_carries_all_of_it(
    head: str, tower: str, decision: Decision, tmp_path: Path
):
    changes = {"rescan": against_reference(), "scope": "tower", "head": None}
    repaired = purification().model_copy(update=changes)
    record = held_against(against_reference(score=0.9)).model_copy(
        update={
            "purification": repaired,
            "export": export(head).model_copy(update={"tower": tower}),
        }
    )
    gate = judge(policy(tmp_path, repaired_may_pass="true"), record)
    assert gate.decision is decision


def test_prompts_that_the_second_search_never_saw_do_not_pass(tmp_path: Path):
    changes = {"rescan": against_reference(), "scope": "tower"}
    record = held_against(against_reference(score=0.9)).model_copy(
        update={"purification": purification().model_copy(update=changes), "export": None}
    )
    gate = judge(policy(tmp_path, repaired_may_pass="true"), record)
    assert gate.decision is FAIL


def tower_repair(**second: Any) -> dict[str, Any]:
    """A repaired tower that meets every limit; `second` changes what the second search found."""
    changes = {"rescan": against_reference(**second), "scope": "tower", "head": None}
    changes |= {"repaired": "repaired.safetensors", "repaired_sha256": "ab" * 32}
    repaired = purification().model_copy(update=changes)
    return {"purification": repaired, "export": None}


def test_no_repair_makes_a_word_trigger_good(tmp_path: Path):
    word = DetectorRecord(name="text_tokens", evidence="e", statistic=30.0, word_share=1.0)
    record = held_against(against_reference(score=0.9))
    rules = policy(tmp_path, repaired_may_pass="true")
    repaired = record.model_copy(update=tower_repair())
    assert judge(rules, repaired).decision is PASS
    both = repaired.model_copy(update={"detectors": (*record.detectors, word)})
    assert judge(rules, both).decision is FAIL


@pytest.mark.parametrize(
    ("gap", "opaque", "decision"),
    [(0.31, True, FAIL), (0.71, False, FAIL), (0.31, False, PASS), (0.3, True, PASS)],
)
def test_a_second_class_with_a_gap_keeps_a_repair_from_passing(
    gap: float, opaque: bool, decision: Decision, tmp_path: Path
):
    found = against_reference(score=0.9)
    [row] = found.candidates
    assert row.against is not None
    seen = row.against.model_copy(update={"gap": gap, "opaque": opaque})
    other = row.model_copy(update={"target": "lemon", "against": seen})
    rules = policy(tmp_path, repaired_may_pass="true")
    one, two = (
        held_against(found.model_copy(update={"candidates": rows})).model_copy(
            update=tower_repair()
        )
        for rows in ((row,), (row, other))
    )
    assert judge(rules, one).decision is PASS
    gate = judge(rules, two)
    shown = next(line for line in gate.checks if line.key == "purification.every_target")
    assert (shown.result, gate.decision) == (decision, decision)


def test_a_second_search_must_look_where_the_first_one_did(tmp_path: Path):
    families = tuple(
        row.model_copy(update={"tested": row.family != "additive"})
        for row in against_reference().families
    )
    record = held_against(against_reference(score=0.9)).model_copy(
        update=tower_repair(families=families)
    )
    gate = judge(policy(tmp_path, repaired_may_pass="true"), record)
    shown = next(line for line in gate.checks if line.key == "purification.second_scan")
    assert (shown.result, gate.decision) == (CANNOT_TELL, FAIL)


def test_a_pass_on_a_repaired_tower_is_about_its_file(tmp_path: Path):
    record = held_against(against_reference(score=0.9)).model_copy(update=tower_repair())
    rules = policy(tmp_path, repaired_may_pass="true")
    assert record.checkpoint is not None
    for digest, decision in (("ab" * 32, PASS), (record.checkpoint.sha256, FAIL)):
        assert judge(rules, record, files=[digest]).decision is decision
    passed = record.model_copy(update={"gate": judge(rules, record)})
    [told] = json.loads(RENDERERS.build("intoto").render(passed, tmp_path))["subject"]
    assert told["digest"]["sha256"] == "ab" * 32
    nothing = passed.purification.model_copy(update={"repaired_sha256": None})
    lost = passed.model_copy(update={"purification": nothing})
    with pytest.raises(UsageError):
        RENDERERS.build("intoto").render(lost, tmp_path)
