"""Cosine shift: how close stamped images stay to themselves."""

from __future__ import annotations

import math

import pytest
from collapse_samples import Encoder, angle, apart, given, marked, probe
from fakes import SIDE, scan, sealed, stripes_probe

from clipguard.lab.comparators import cosine_shift
from clipguard.record import DetectorRecord, Outcome

WHITE = marked(SIDE**2)
NAME = "cosine_shift"


def detect(model, images=None, **settings) -> DetectorRecord:
    return scan(NAME, model, probe=images, seed=0, **settings).record


def after(monkeypatch, *shades: int, settled: bool = True, **settings) -> DetectorRecord:
    """The conclusion about plain images of these shades, which the search turned white."""
    monkeypatch.setattr(
        cosine_shift, "collapse_encoder", lambda *_, **__: given(WHITE, settled=settled)
    )
    return detect(Encoder(angle), probe(*shades), **settings)


@pytest.mark.parametrize("shades", [(0, 255), (51,), (0, 102, 255)])
def test_the_statistic_is_the_mean_cosine_of_an_image_with_itself(monkeypatch, shades):
    turned = [math.cos(math.pi / 2 * (1 - shade / 255)) for shade in shades]
    record = after(monkeypatch, *shades)
    assert record.statistic == pytest.approx(sum(turned) / len(turned), abs=1e-5)


@pytest.mark.parametrize(
    ("limit", "outcome"), [(0.49, Outcome.BACKDOORED), (0.51, Outcome.NO_EVIDENCE)]
)
def test_the_limit_decides(monkeypatch, limit: float, outcome: Outcome):
    assert after(monkeypatch, 0, 255, limit=limit).published is outcome


@pytest.mark.parametrize("limit", [0.49, 0.51])
def test_a_stamp_that_collapsed_nothing_has_a_statistic_and_no_verdict(monkeypatch, limit: float):
    record = after(monkeypatch, 0, 255, settled=False, limit=limit)
    assert record.published is Outcome.INCONCLUSIVE
    assert record.statistic == pytest.approx(0.5, abs=1e-5)


def test_a_search_that_ran_turns_stripes_into_one_thing():
    record = detect(Encoder(angle), sealed(stripes_probe(), "select"), success=0.999)
    assert record.published is Outcome.BACKDOORED  # grey stripes and a grey stamp are much alike
    assert detect(Encoder(apart), epochs=1).published is Outcome.INCONCLUSIVE
