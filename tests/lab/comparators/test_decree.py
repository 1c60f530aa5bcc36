"""DECREE: the smallest mask that collapses the encoder, against its authors' limit."""

from __future__ import annotations

import pytest
from collapse_samples import Content, Encoder, apart, given, marked, noise, probe, same
from fakes import SIDE, scan, sealed, stripes_probe

from clipguard.lab.comparators import decree
from clipguard.lab.comparators._encoder_collapse import Stamp
from clipguard.record import DetectorRecord, Outcome

LIMIT = 64 / SIDE**2


def detect(model, images=None, **settings) -> DetectorRecord:
    return scan("decree", model, probe=images, seed=0, **settings).record


def found(monkeypatch, smallest: Stamp | None, *, settled: bool = True) -> DetectorRecord:
    """The conclusion from a search that found this."""
    made = given(marked(SIDE**2), smallest, settled=settled)
    monkeypatch.setattr(decree, "collapse_encoder", lambda *_, **__: made)
    return detect(Encoder(same), limit=LIMIT)


@pytest.mark.parametrize(
    ("pixels", "outcome"),
    [(63, Outcome.BACKDOORED), (64, Outcome.NO_EVIDENCE), (65, Outcome.NO_EVIDENCE)],
)
def test_the_published_limit_decides(monkeypatch, pixels: int, outcome: Outcome):
    record = found(monkeypatch, marked(pixels))
    assert record.published is outcome
    assert record.statistic == pytest.approx(-pixels / SIDE**2)


def test_a_search_that_was_not_done_is_no_pass_but_may_be_a_finding(monkeypatch):
    large, small = (found(monkeypatch, marked(n), settled=False) for n in (65, 63))
    assert large.published is Outcome.INCONCLUSIVE
    assert small.published is Outcome.BACKDOORED


def test_without_a_collapse_there_is_no_verdict_and_the_least_suspicion(monkeypatch):
    record = found(monkeypatch, None, settled=False)
    assert (record.published, record.statistic) == (Outcome.INCONCLUSIVE, -1)
    assert detect(Encoder(apart), epochs=1).published is Outcome.INCONCLUSIVE


def test_a_planted_collapse_needs_a_smaller_mask_than_a_clean_encoder_has():
    clean, planted = (detect(Encoder(Content(corner)), noise(), epochs=300) for corner in (0, 6))
    assert clean.published is Outcome.NO_EVIDENCE
    assert planted.published is Outcome.BACKDOORED
    assert planted.statistic > clean.statistic + 0.05


def test_only_optimise_is_searched_and_only_measure_is_measured():
    images = sealed(sealed(stripes_probe(), "select"), "measure")
    with pytest.raises(AssertionError, match="sealed"):
        detect(Encoder(same), images, epochs=1)
    images = sealed(probe(0, 255), "select")
    assert detect(Encoder(same), images, epochs=1).statistic > -1
