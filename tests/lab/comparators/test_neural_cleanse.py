"""Neural Cleanse: the price of a mask, what is kept, and the published rule."""

from dataclasses import replace

import pytest
import torch
from fakes import NAMES, StripesClip, draw_part, scan, sealed, stripes_probe
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.lab.comparators import neural_cleanse
from clipguard.lab.comparators._classes import anomaly_index
from clipguard.lab.comparators.neural_cleanse import Costs, Kept, NeuralCleanse
from clipguard.record import DetectorRecord, Outcome

NAME = "neural_cleanse"
PLANTED = 3


def costs(count: int = 1) -> Costs:
    zeros = torch.zeros(count, dtype=torch.long)
    return Costs(torch.full((count,), 1e-3), zeros, zeros, raised=2.0, lowered=2**1.5, patience=5)


def prices(successes: list[bool]) -> list[float]:
    """The price after every step, in units of the first."""
    paid, told = costs(), []
    for success in successes:
        paid.follow(torch.tensor([success]))
        told.append(paid.price.item() * 1e3)
    return told


LOW = 2**-1.5


@pytest.mark.parametrize(
    ("successes", "told"),
    [
        ([True] * 11, [1] * 4 + [2] * 5 + [4] * 2),  # doubles after five in a row, and again
        ([False] * 11, [1] * 4 + [LOW] * 5 + [LOW**2] * 2),
        ([True] * 4 + [False] + [True] * 4, [1] * 9),  # a row that is broken starts anew
        ([False] * 4 + [True] + [False] * 4, [1] * 9),
    ],
)
def test_the_price_of_a_mask_follows_five_successes_or_failures_in_a_row(
    successes: list[bool], told: list[float]
):
    assert prices(successes) == pytest.approx(told)


def test_every_class_has_a_price_of_its_own():
    paid = costs(3)
    for step in range(5):
        paid.follow(torch.tensor([True, False, step % 2 == 0]))
    assert paid.price.tolist() == pytest.approx([2e-3, 1e-3 / 2**1.5, 1e-3])


def test_the_smallest_mask_that_worked_is_kept_and_the_newest_while_none_did():
    kept = neural_cleanse._nothing(2, 1)
    steps = [  # sizes and successes of two classes; the second never works
        ([9.0, 9.0], [False, False]),
        ([7.0, 5.0], [True, False]),
        ([3.0, 6.0], [False, False]),
        ([8.0, 7.0], [True, False]),
        ([6.0, 8.0], [True, False]),
        ([6.5, 9.0], [True, False]),
        ([5.0, 4.0], [False, False]),
    ]
    for sizes, works in steps:
        size = torch.tensor(sizes)
        shown = size.view(2, 1, 1, 1)
        kept = neural_cleanse._keep(
            kept, torch.tensor(works), size, shown, shown.repeat(1, 3, 1, 1)
        )
    assert kept.size.tolist() == kept.mask.flatten().tolist() == [6.0, 4.0]
    assert kept.pattern[:, 0].flatten().tolist() == [6.0, 4.0]
    assert kept.works.tolist() == [True, False]


def test_the_anomaly_index_equals_one_that_is_reckoned_by_hand():
    # median 30; deviations 20, 10, 0, 10, 70; their median 10
    found = anomaly_index(torch.tensor([10.0, 20.0, 30.0, 40.0, 100.0]))
    assert found.tolist() == pytest.approx([x / 14.826 for x in (-20, -10, 0, 10, 70)])
    with pytest.raises(InconclusiveError, match="there is no spread"):
        anomaly_index(torch.tensor([1.0, 5.0, 5.0, 5.0]))


def judged(
    monkeypatch: pytest.MonkeyPatch, sizes: list[float], works: list[bool]
) -> DetectorRecord:
    """The record where the searches came to `sizes`."""

    def found(self: NeuralCleanse, *given: Tensor) -> Kept:
        chunk = given[3]
        rows = len(chunk)
        mask, pattern = torch.zeros(rows, 1, 32, 32), torch.zeros(rows, 3, 32, 32)
        return Kept(torch.tensor(sizes)[chunk], torch.tensor(works)[chunk], mask, pattern)

    monkeypatch.setattr(NeuralCleanse, "_invert", found)
    return scan(NAME, StripesClip(), chunk=4).record


OTHERS = [80.0, 85.0, 90.0, 95.0, 100.0, 105.0, 110.0, 115.0, 120.0]
"""Nine masks; with a small one the median is 97.5 and the MAD 12.5."""


@pytest.mark.parametrize(
    ("size", "place", "works", "outcome", "smallest", "target"),
    [
        (60.0, 4, True, Outcome.BACKDOORED, 60.0, 4),
        (61.0, 0, True, Outcome.NO_EVIDENCE, 61.0, 0),
        (1.0, 0, False, Outcome.NO_EVIDENCE, 80.0, 1),  # never worked: no finding however small
    ],
)
def test_a_mask_that_works_and_lies_two_deviations_below_the_median_is_a_finding(
    monkeypatch,
    size: float,
    place: int,
    works: bool,
    outcome: Outcome,
    smallest: float,
    target: int,
):
    working = [index != place or works for index in range(10)]
    record = judged(monkeypatch, [*OTHERS[:place], size, *OTHERS[place:]], working)
    assert (record.published, record.target) == (outcome, NAMES[target])
    assert record.statistic == pytest.approx((97.5 - smallest) / (1.4826 * 12.5))


def test_without_any_mask_that_works_there_is_nothing_to_conclude_from(monkeypatch):
    with pytest.raises(InconclusiveError, match="a mask that works for no class"):
        judged(monkeypatch, [1.0, *OTHERS], [False] * 10)


def test_the_search_sees_optimise_only_and_the_measured_rate_decides_nothing():
    probe = sealed(stripes_probe(101), "select")
    first = scan(NAME, StripesClip(PLANTED), probe=probe).record
    probe = replace(probe, measure=draw_part(3, 77))
    second = scan(NAME, StripesClip(PLANTED), probe=probe).record
    assert first.statistic == second.statistic


def test_a_probe_with_images_of_the_target_alone_still_ranks_it():
    probe = stripes_probe(101)
    labels = torch.full_like(probe.measure.labels, PLANTED)
    probe = replace(probe, measure=replace(probe.measure, labels=labels))
    record = scan(NAME, StripesClip(PLANTED), probe=probe).record
    assert record.target == NAMES[PLANTED]
