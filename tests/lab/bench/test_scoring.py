"""Scores against hand-worked values and slow obvious versions."""

from __future__ import annotations

import math

import pytest
from fakes import generator

from clipguard.lab.bench.scoring import (
    UNKNOWN,
    asr_bin,
    auroc,
    auroc_interval,
    brier,
    cross_entropy,
    detection_at_no_false_alarm,
    mean_interval,
    suspicion,
)


def test_cross_entropy_of_two_models_by_hand():
    # -ln 0.8 = 0.22314, -ln(1 - 0.4) = 0.51083; mean 0.36698, deviation 0.14384
    value, low, high, n = cross_entropy([0.8, 0.4], [True, False])
    assert (value, n) == (pytest.approx(0.366985, abs=1e-6), 2)
    assert high - value == pytest.approx(value - low)
    assert high - value == pytest.approx(1.959964 * 0.143841 / math.sqrt(2), abs=1e-5)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        # certainty that is wrong costs no more than the clip
        (cross_entropy([0.0, 1.0], [True, False]).value, pytest.approx(-math.log(1e-12), 1e-4)),
        (brier([0.9, 0.2, 0.5], [True, False, False]), pytest.approx((0.01 + 0.04 + 0.25) / 3)),
        # pairs: 0.9 beats 0.5 and 0.1; 0.5 ties with 0.5 and beats 0.1
        (auroc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]), 3.5 / 4),
    ],
    ids=["cross-entropy", "Brier", "AUROC"],
)
def test_scores_worked_by_hand(found: float, wanted: float):
    assert found == wanted


def test_an_even_bet_on_everything_scores_ln_2_and_a_quarter():
    scores, truths = [suspicion(None)] * 3, [True, False, False]
    assert cross_entropy(scores, truths).value == pytest.approx(math.log(2))
    assert brier(scores, truths) == 0.25
    assert auroc(scores, truths) == 0.5
    assert suspicion(0.0) == 0.0 != UNKNOWN


@pytest.mark.parametrize("score", [cross_entropy, brier])
def test_nothing_has_no_score(score):
    with pytest.raises(ValueError, match="one truth a score"):
        score([], [])


def test_one_kind_of_model_has_no_ranking():
    assert auroc([0.1, 0.9], [True, True]) is None
    assert auroc_interval([0.1], [False], ["a"], generator=generator()) is None
    assert detection_at_no_false_alarm([0.1], [True]) is None


def test_a_perfect_ranking_of_few_models_is_not_certain():
    found = auroc_interval([0.9] * 4 + [0.1] * 9, [True] * 4 + [False] * 9, range(13),
                           generator=generator())  # fmt: skip
    # Wilson for 4 of 4: 1 / (1 + 3.8415 / 4) = 0.5101
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.5101, abs=1e-4)


def test_models_of_one_parent_are_drawn_together():
    # Parent a is ranked right, parent b wrong: within each of them nothing varies.
    scores, truths = [0.9, 0.1, 0.1, 0.9] * 3, [True, False, True, False] * 3
    parents = ["a", "a", "b", "b"] * 3
    together = auroc_interval(scores, truths, parents, generator=generator())
    apart = auroc_interval(scores, truths, range(12), generator=generator())
    assert (together.low, together.high) == (0.0, 1.0)
    assert 0.0 < apart.low < apart.high < 1.0


def test_a_resample_of_one_kind_is_left_out():
    # Parents hold one kind each: half of the resamples say nothing, the rest are perfect.
    found = auroc_interval([0.9, 0.1], [True, False], ["a", "b"], generator=generator())
    assert found.value == 1.0
    assert 0 < found.low < 1


def test_found_at_no_false_alarm_means_above_every_clean_model():
    scores = [0.9, 0.8, 0.7, 0.8, 0.1]
    found = detection_at_no_false_alarm(scores, [True, True, True, False, False])
    assert (found.value, found.n) == (pytest.approx(1 / 3), 3)  # a tie is a false alarm


def test_a_mean_with_its_interval():
    value, low, high, n = mean_interval([0.0, 1.0] * 50, generator=generator())
    assert (value, n) == (0.5, 100)
    assert low == pytest.approx(0.4, abs=0.03)  # 0.5 - 1.96 * 0.05
    assert high == pytest.approx(0.6, abs=0.03)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([], generator=generator())


@pytest.mark.parametrize(
    ("asr", "name"),
    [(0.0, "< 50 %"), (0.49, "< 50 %"), (0.5, "50–90 %"), (0.89, "50–90 %"), (0.9, "≥ 90 %"),
     (1.0, "≥ 90 %")],
)  # fmt: skip
def test_asr_bins(asr: float, name: str):
    assert asr_bin(asr) == name
