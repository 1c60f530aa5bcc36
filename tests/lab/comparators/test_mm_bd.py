"""MM-BD: the gamma law, the published rule, and margins that are reached from noise."""

import math

import pytest
import torch
from fakes import NAMES, StripesClip, scan, sealed, stripes_probe
from scipy.stats import gamma
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.lab.comparators import mm_bd
from clipguard.lab.comparators.mm_bd import MaximumMargin, maximum_p
from clipguard.probe.sets import Subject
from clipguard.record import DetectorRecord, Outcome

NAME = "mm_bd"
PLANTED = 3


def drawn(scale: float) -> Tensor:
    """Thirty draws of a gamma law of shape 4, as sums of exponentials."""
    uniform = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)).double()
    return -scale * uniform.log().sum(dim=1)


def test_the_largest_stays_out_of_the_fit():
    values = torch.cat([drawn(2.0), torch.tensor([30.0])])
    shape, start, size = gamma.fit(values[:-1].numpy(), floc=0)
    expected = 1 - gamma.cdf(30.0, shape, start, size) ** 31
    assert 1e-4 < expected < 0.5
    assert maximum_p(values) == pytest.approx(expected, rel=1e-4)
    assert maximum_p(values.flip(0)) == maximum_p(values)


def test_a_far_tail_keeps_its_digits():
    values = torch.cat([drawn(1.0), torch.tensor([200.0])])
    assert 0 < maximum_p(values) < 1e-40


def test_margins_that_do_not_differ_have_no_law():
    with pytest.raises(InconclusiveError, match="do not differ"):
        maximum_p(torch.tensor([2.0, 2.0, 2.0, 5.0]))


def judged(
    monkeypatch: pytest.MonkeyPatch, margins: list[float], **changes: object
) -> DetectorRecord:
    """The record where the classes reached `margins`."""

    def climbed(self: MaximumMargin, *given: Tensor) -> Tensor:
        return torch.tensor(margins)[given[3]]

    monkeypatch.setattr(MaximumMargin, "_climb", climbed)
    return scan(NAME, StripesClip(), chunk=4, **changes).record


OTHERS = [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]


@pytest.mark.parametrize(
    ("margins", "counted", "outcome", "target"),
    [
        ([*OTHERS[:5], 30.0, *OTHERS[5:]], [*OTHERS, 30.0], Outcome.BACKDOORED, 5),
        ([*OTHERS, 14.0], [*OTHERS, 14.0], Outcome.NO_EVIDENCE, 9),
        # a class that no input reached stays out of the law
        ([-3.0, *OTHERS[:8], 30.0], [*OTHERS[:8], 30.0], Outcome.BACKDOORED, 9),
    ],
)
def test_a_margin_out_of_line_is_a_finding(
    monkeypatch, margins: list[float], counted: list[float], outcome: Outcome, target: int
):
    record, expected = judged(monkeypatch, margins), maximum_p(torch.tensor(counted))
    assert (record.published, record.target) == (outcome, NAMES[target])
    assert (expected < 0.05) is (outcome is Outcome.BACKDOORED)
    assert record.statistic == pytest.approx(-math.log(expected))


def test_too_few_margins_above_zero_say_nothing(monkeypatch):
    with pytest.raises(InconclusiveError, match="2 of 10 classes"):
        judged(monkeypatch, [-1.0] * 8 + [1.0, 2.0])


def test_a_tail_below_any_number_leaves_a_finite_statistic(monkeypatch):
    record = judged(monkeypatch, [*OTHERS, 1e6])
    assert record.statistic == pytest.approx(-math.log(mm_bd.SMALLEST))


def test_no_image_of_the_probe_is_looked_at():
    probe = stripes_probe(101)
    for part in ("optimise", "select", "measure"):
        probe = sealed(probe, part)
    assert scan(NAME, StripesClip(PLANTED), probe=probe).record.target == NAMES[PLANTED]


def test_the_climb_ends_when_nothing_changes_any_more():
    told: list[int] = []
    MaximumMargin(steps=50, settled=0.5, chunk=10).detect(
        Subject(StripesClip(), stripes_probe()),
        None,
        generator=torch.Generator(),
        progress=lambda stage, done, total: told.append(done),
    )
    assert len(told) < 20
