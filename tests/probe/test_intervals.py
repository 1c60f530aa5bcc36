"""Numbers against hand-worked values and slow obvious versions."""

import math
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipguard.detect.null_band import conformal_p, log_odds
from clipguard.probe.intervals import cluster_bootstrap, paired_bootstrap, wilson

shares = st.floats(0, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_wilson_is_symmetric_around_one_half():
    # 5 of 10, z = 1.96: centre (0.5 + 0.19207) / 1.38415 = 0.5, half width 0.26340
    value, low, high, n = wilson(5, 10)
    assert (value, n) == (0.5, 10)
    assert low == pytest.approx(0.23659, abs=1e-5)
    assert high == pytest.approx(0.76341, abs=1e-5)


def test_wilson_of_no_success_ends_at_z2_over_n_plus_z2():
    # at 0 of n the upper end is z2 / (n + z2) = 3.84146 / 13.84146
    assert wilson(0, 10) == pytest.approx((0, 0, 0.27753, 10), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((1, 1 - 0.27753, 1, 10), abs=1e-5)


def test_a_share_of_no_trials_is_an_error_and_not_zero():
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_share_and_stays_between_0_and_1(case: tuple[int, int]):
    value, low, high, _ = wilson(*case)
    assert 0 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= 1


def slow_bootstrap(hits: list[bool], groups: list[int], picks: list[list[int]]) -> list[float]:
    """Share of hits after drawing whole groups, one resample at a time."""
    names = sorted(set(groups))
    result = []
    for draw in picks:
        rows = [h for i in draw for h, g in zip(hits, groups, strict=True) if g == names[i]]
        result.append(sum(rows) / len(rows))
    return sorted(result)


def quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


HITS = [True, True, False, True, False, False, True, False, True, True]
GROUPS = [7, 7, 7, 2, 2, 9, 9, 9, 9, 4]


def test_the_cluster_bootstrap_draws_whole_groups():
    picks = torch.randint(4, (200, 4), generator=generator(3)).tolist()
    shares = slow_bootstrap(HITS, GROUPS, picks)
    found = cluster_bootstrap(
        torch.tensor(HITS), torch.tensor(GROUPS), generator=generator(3), draws=200
    )
    wanted = (0.6, quantile(shares, 0.025), quantile(shares, 0.975), 10)
    assert found == pytest.approx(wanted, abs=1e-9)


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


def test_the_bootstrap_refuses_no_trials_and_shapes_that_differ():
    with pytest.raises(ValueError, match="non-empty"):
        cluster_bootstrap(torch.ones(0, dtype=torch.bool), torch.ones(0), generator=generator())
    with pytest.raises(ValueError, match="equal"):
        cluster_bootstrap(torch.ones(3, dtype=torch.bool), torch.ones(2), generator=generator())


def test_one_seed_gives_one_interval():
    case = torch.tensor(HITS), torch.tensor(GROUPS)
    first, second = (cluster_bootstrap(*case, generator=generator(1)) for _ in range(2))
    assert first == second
    assert first != cluster_bootstrap(*case, generator=generator(2))


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
    ordered = sorted(
        a - b
        for a, b in zip(unsorted(HITS, GROUPS, picks), unsorted(second, GROUPS, picks), strict=True)
    )
    value, low, high = paired_bootstrap(
        torch.tensor(HITS),
        torch.tensor(second),
        torch.tensor(GROUPS),
        generator=generator(5),
        draws=200,
    )
    assert value == pytest.approx(mean(HITS) - mean(second))
    assert low == pytest.approx(quantile(ordered, 0.025), abs=1e-9)
    assert high == pytest.approx(quantile(ordered, 0.975), abs=1e-9)


def unsorted(hits: list[bool], groups: list[int], picks: list[list[int]]) -> list[float]:
    return [slow_bootstrap(hits, groups, [draw])[0] for draw in picks]


def test_equal_answers_on_the_same_images_differ_by_exactly_nothing():
    hits = torch.tensor(HITS)
    assert paired_bootstrap(hits, hits, torch.tensor(GROUPS), generator=generator()) == (0, 0, 0)
