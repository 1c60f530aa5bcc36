"""Numbers against hand-worked values and slow obvious versions."""

import math
from statistics import mean

import numpy as np
import pytest
import torch
from fakes import generator
from hypothesis import given, settings
from hypothesis import strategies as st

from clipguard.detect.null_band import conformal_p, log_odds
from clipguard.probe.intervals import cluster_bootstrap, paired_bootstrap, wilson

shares = st.floats(0, 1)


def test_wilson_worked_by_hand():
    # 5 of 10, z = 1.96: centre (0.5 + 0.19207) / 1.38415 = 0.5, half width 0.26340
    assert wilson(5, 10) == pytest.approx((0.5, 0.23659, 0.76341, 10), abs=1e-5)
    # at 0 of n the upper end is z2 / (n + z2) = 3.84146 / 13.84146
    assert wilson(0, 10) == pytest.approx((0, 0, 0.27753, 10), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((1, 1 - 0.27753, 1, 10), abs=1e-5)
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_share_and_stays_between_0_and_1(case: tuple[int, int]):
    value, low, high, _ = wilson(*case)
    assert 0 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= 1


def slow_bootstrap(hits: list[bool], picks: list[list[int]]) -> list[float]:
    """Share of hits after drawing whole groups, one resample at a time."""
    names, result = sorted(set(GROUPS)), []
    for draw in picks:
        rows = [h for i in draw for h, g in zip(hits, GROUPS, strict=True) if g == names[i]]
        result.append(sum(rows) / len(rows))
    return result


HITS = [True, True, False, True, False, False, True, False, True, True]
GROUPS = [7, 7, 7, 2, 2, 9, 9, 9, 9, 4]


def test_the_cluster_bootstrap_draws_whole_groups():
    picks = torch.randint(4, (200, 4), generator=generator(3)).tolist()
    low, high = np.quantile(slow_bootstrap(HITS, picks), [0.025, 0.975])
    case = torch.tensor(HITS), torch.tensor(GROUPS)
    found = cluster_bootstrap(*case, generator=generator(3), draws=200)
    assert found == pytest.approx((0.6, low, high, 10), abs=1e-9)
    again, other = (cluster_bootstrap(*case, generator=generator(i), draws=200) for i in (3, 4))
    assert again == found != other


def test_many_scenes_of_few_drawings_give_a_wider_interval_than_many_drawings():
    hits = (torch.arange(10) % 3 == 0).repeat_interleave(20)
    few = cluster_bootstrap(hits, torch.arange(10).repeat_interleave(20), generator=generator())
    many = cluster_bootstrap(hits, torch.arange(200), generator=generator())
    assert few.high - few.low > 2 * (many.high - many.low)


@pytest.mark.parametrize("value", [0, 1])
def test_a_constant_over_few_drawings_still_has_an_interval(value: int):
    hits = torch.full((40,), bool(value))
    found = cluster_bootstrap(hits, torch.arange(4).repeat(10), generator=generator())
    edge = wilson(4 * value, 4)
    assert found == pytest.approx((value, edge.low, edge.high, 40))


@pytest.mark.parametrize(("hits", "groups"), [(0, 0), (3, 2)])
def test_the_bootstrap_refuses_no_trials_and_shapes_that_differ(hits: int, groups: int):
    with pytest.raises(ValueError, match=r"non-empty|equal"):
        cluster_bootstrap(torch.ones(hits) > 0, torch.ones(groups), generator=generator())


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_a_null_of_n_models_gives_no_p_value_below_1_over_n_plus_1(value: float, null: list[float]):
    assert 1 / (len(null) + 1) <= conformal_p(value, null) <= 1


def test_conformal_p_counts_equal_values_against_the_suspect():
    assert conformal_p(2, [1, 2, 3]) == 3 / 4
    assert conformal_p(4, [1, 2, 3]) == 1 / 4
    assert conformal_p(0, [1, 2, 3]) == 1


def test_log_odds_adds_half_a_trial_on_both_sides():
    assert log_odds(0.5, 10) == 0
    assert log_odds(0, 10) == pytest.approx(math.log(0.5 / 10.5))
    assert log_odds(1, 10) == pytest.approx(math.log(10.5 / 0.5))


@settings(deadline=None)
@given(shares, shares, st.integers(1, 10_000))
def test_log_odds_is_finite_and_rises_with_the_share(one: float, other: float, trials: int):
    low, high = sorted((one, other))
    assert math.isfinite(log_odds(low, trials))
    assert log_odds(low, trials) <= log_odds(high, trials)


def test_the_paired_bootstrap_resamples_both_sides_together():
    second = [not hit for hit in HITS[:4]] + HITS[4:]
    picks = torch.randint(4, (200, 4), generator=generator(5)).tolist()
    sides = (np.array(slow_bootstrap(side, picks)) for side in (HITS, second))
    wanted = (mean(HITS) - mean(second), *np.quantile(np.subtract(*sides), [0.025, 0.975]))
    one, other, groups = (torch.tensor(row) for row in (HITS, second, GROUPS))
    found = paired_bootstrap(one, other, groups, generator=generator(5), draws=200)
    assert found == pytest.approx(wanted, abs=1e-9)
    assert paired_bootstrap(one, one, groups, generator=generator()) == (0, 0, 0)
