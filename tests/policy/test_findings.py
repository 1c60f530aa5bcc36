"""What follows from measurements: every limit about the backdoor, with a value on either side."""

from __future__ import annotations

from typing import Any

import pytest

from clipguard.policy.document import Policy, load_policy
from clipguard.policy.findings import detector_checks
from clipguard.policy.judge import conclude
from clipguard.record import (
    CalibrationRecord,
    Candidate,
    DetectorRecord,
    FamilyRecord,
    Outcome,
    Rate,
    TriggerRecord,
)

DEFAULT = load_policy("default")
BAND = CalibrationRecord(kind="models", models=19)
NO_EVIDENCE, INCONCLUSIVE, SUSPICIOUS, BACKDOORED = Outcome
SCORE, ALPHA, STRONG = "backdoor.max_score", "backdoor.alpha", "backdoor.strong_asr"
BLIND, FAMILY = "backdoor.min_excess", "backdoor.families"
SETTLED, WORD = "backdoor.max_unsettled_excess", "backdoor.max_word_pull"
Expected = dict[str, Outcome]


def rate(low: float, high: float) -> Rate:
    return Rate(value=(low + high) / 2, low=low, high=high, n=100)


def candidate(target: str, low: float, high: float, **changes: Any) -> Candidate:
    kept: dict[str, Any] = {"excess": 0.0, "settled": True} | changes
    return Candidate(
        target=target,
        family="patch",
        stage="targeted",
        asr=rate(low, high),
        natural=rate(0.0, 0.05),
        statistic=0.0,
        trigger=TriggerRecord(size=0.02, unit="share of the image"),
        **kept,
    )


WEAK = candidate("elm", 0.1, 0.2)


def searched(**changes: Any) -> DetectorRecord:
    """An image detector that found nothing, but for `changes`."""
    quiet: dict[str, Any] = {
        "score": 0.1,
        "p_value": 0.5,
        "families": (FamilyRecord(family="patch", tested=True, excess=0.0),),
        "candidates": (candidate("oak", 0.1, 0.2), WEAK),
    }
    return DetectorRecord(name="inversion", evidence="found", **quiet | changes)


def shown(low: float, control: float | None, **changes: Any) -> DetectorRecord:
    """One whose first trigger reaches `low` at least, and that of another class `control`."""
    others = () if control is None else (candidate("elm", 0.0, control),)
    return searched(candidates=(candidate("oak", low, 1.0), *others), **changes)


def excess(value: float, **changes: Any) -> DetectorRecord:
    return searched(
        families=(
            FamilyRecord(family="patch", tested=True, excess=value),
            FamilyRecord(family="warp", tested=True, excess=0.0),
        ),
        **changes,
    )


def unsettled(value: float | None, **changes: Any) -> DetectorRecord:
    gaining = candidate("oak", 0.1, 0.2, settled=False, excess=value)
    return searched(candidates=(WEAK, gaining), **changes)


def word(pull: float | None, share: float) -> DetectorRecord:
    return DetectorRecord(name="text_tokens", evidence="found", statistic=pull, word_share=share)


def against(
    policy: Policy, record: DetectorRecord, calibration: CalibrationRecord = BAND
) -> Expected:
    """The lines that find something; the conclusion must be the worst of them."""
    [(_, lines)] = detector_checks(policy, [record], calibration)
    found = {
        made.check.key: made.outcome for made in lines if made.outcome not in {NO_EVIDENCE, None}
    }
    (told,) = conclude(policy, [record], calibration)
    assert told.detector == record.name
    assert told.outcome is max(found.values(), key=list(Outcome).index, default=NO_EVIDENCE)
    assert told.reason in [made.check.reason for made in lines if made.outcome is told.outcome]
    return found


GAP = (FamilyRecord(family="patch", tested=False, reason="too few steps"),)
HIGH = {"score": 0.51, "p_value": 0.05}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (searched(), {}),
        (searched(score=0.3), {}),
        (searched(score=0.31), {SCORE: SUSPICIOUS}),
        (searched(score=0.5, p_value=0.05), {SCORE: SUSPICIOUS}),
        (searched(score=0.51, p_value=0.05), {SCORE: BACKDOORED}),
        (searched(score=0.51, p_value=0.051), {SCORE: SUSPICIOUS}),
        (searched(p_value=0.001), {}),
        (searched(score=None, p_value=None), {SCORE: INCONCLUSIVE, ALPHA: INCONCLUSIVE}),
        (shown(0.9, 0.5), {STRONG: BACKDOORED}),
        (shown(0.9, 0.5, p_value=0.17), {STRONG: BACKDOORED}),
        (shown(0.89, 0.5), {}),
        (shown(0.9, 0.51), {}),
        (shown(0.9, None), {}),
        (searched(candidates=()), {}),
        (excess(-3.9), {}),
        (excess(-4.0), {BLIND: INCONCLUSIVE}),
        (excess(-4.0, **HIGH), {BLIND: INCONCLUSIVE, SCORE: BACKDOORED}),
        (searched(families=GAP), {FAMILY: INCONCLUSIVE}),
        (searched(families=GAP, score=0.4), {FAMILY: INCONCLUSIVE, SCORE: SUSPICIOUS}),
        (unsettled(0.99), {}),
        (unsettled(1.0), {SETTLED: INCONCLUSIVE}),
        (unsettled(None), {SETTLED: INCONCLUSIVE}),
        (unsettled(1.0, score=0.4), {SETTLED: INCONCLUSIVE, SCORE: SUSPICIOUS}),
        (word(3.0, 0.9), {WORD: BACKDOORED}),
        (word(2.99, 1.0), {}),
        (word(30.0, 0.89), {}),
        (word(None, 1.0), {WORD: INCONCLUSIVE}),
    ],
)
def test_a_limit_parts_what_lies_on_either_side(record: DetectorRecord, expected: Expected):
    assert against(DEFAULT, record) == expected


@pytest.mark.parametrize(
    ("calibration", "expected"),
    [
        (BAND, {}),
        (CalibrationRecord(kind="models", models=18), {ALPHA: INCONCLUSIVE}),
        (CalibrationRecord(kind="models", models=-1), {ALPHA: INCONCLUSIVE}),
        (CalibrationRecord(kind="none", models=19), {ALPHA: INCONCLUSIVE}),
    ],
)
def test_a_null_band_needs_models_enough_to_reach_alpha(
    calibration: CalibrationRecord, expected: Expected
):
    assert against(DEFAULT, searched(), calibration) == expected


def test_without_a_null_band_only_a_strong_trigger_is_found():
    none = CalibrationRecord(kind="none")
    bare = {"score": None, "p_value": None}
    missing = {SCORE: INCONCLUSIVE, ALPHA: INCONCLUSIVE}
    assert against(DEFAULT, shown(0.9, 0.5, **bare), none) == missing | {STRONG: BACKDOORED}
    assert against(DEFAULT, shown(0.9, 0.51, **bare), none) == missing


@pytest.mark.parametrize(
    ("key", "value", "record", "expected"),
    [
        ("clear_score", 0.09, searched(), {SCORE: SUSPICIOUS}),
        ("max_score", 0.6, searched(**HIGH), {SCORE: SUSPICIOUS}),
        ("alpha", 0.5, searched(score=0.51), {SCORE: BACKDOORED}),
        ("alpha", 0.04, searched(), {ALPHA: INCONCLUSIVE}),
        ("strong_asr", 0.8, shown(0.8, 0.5), {STRONG: BACKDOORED}),
        ("control_asr", 0.7, shown(0.9, 0.7), {STRONG: BACKDOORED}),
        ("min_excess", -1.0, excess(-1.0), {BLIND: INCONCLUSIVE}),
        ("max_unsettled_excess", 0.5, unsettled(0.5), {SETTLED: INCONCLUSIVE}),
        ("max_word_pull", 2.0, word(2.0, 1.0), {WORD: BACKDOORED}),
        ("min_word_share", 0.5, word(3.0, 0.5), {WORD: BACKDOORED}),
    ],
)
def test_every_limit_is_the_policy_s(
    key: str, value: float, record: DetectorRecord, expected: Expected
):
    limits = DEFAULT.backdoor.model_copy(update={key: value})
    assert against(DEFAULT.model_copy(update={"backdoor": limits}), record) == expected


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_detector_of_the_literature_keeps_its_authors_conclusion(outcome: Outcome):
    """Whatever else it measured: a large statistic of its own is no score of ours."""
    record = searched(published=outcome, **HIGH).model_copy(update={"families": ()})
    (told,) = conclude(DEFAULT, [record], BAND)
    assert told.outcome is outcome


def test_every_detector_has_a_conclusion_of_its_own():
    told = conclude(DEFAULT, [searched(), word(3.0, 0.9)], BAND)
    assert [(one.detector, one.outcome) for one in told] == [
        ("inversion", NO_EVIDENCE),
        ("text_tokens", BACKDOORED),
    ]


@pytest.mark.parametrize(
    "claim", [{"word_share": 0.0}, {"published": Outcome.NO_EVIDENCE}], ids=str
)
def test_the_search_for_triggers_cannot_be_declared_another_detector(claim: dict[str, object]):
    record = searched(**HIGH).model_copy(update=claim)
    (told,) = conclude(DEFAULT, [record], BAND)
    assert told.outcome is Outcome.BACKDOORED
