"""The main detector: what it measures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import (
    NAMES,
    WIDTH,
    StripesClip,
    clean_band,
    concluded,
    generator,
    scan,
    stripes_probe,
)

from clipguard.audit.coverage import coverage
from clipguard.detect.inversion import TriggerInversion
from clipguard.detect.null_band import Band, Calibration, excess_over_null, log_odds
from clipguard.detect.roles import Finding
from clipguard.detect.score import shipped_suspicion
from clipguard.errors import InconclusiveError, UsageError
from clipguard.probe.rates import MIN_MEASURE, attack_rate, classify, embed
from clipguard.probe.sets import ProbePart, ProbeSet, Subject
from clipguard.record import Outcome
from clipguard.search.families.additive import Additive
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.inverters.screen import Screen
from clipguard.search.inverters.targeted import Targeted

NAME = "inversion"
PLANTED = 3
TARGETED = Targeted(steps=20, batch=80, tolerance=1e9)
FAST = {
    "collapse": Collapse(steps=20, batch=40, restarts=1),
    "screen": Screen(steps=2, images=10),
    "targeted": TARGETED,
}
ADDITIVE = {"families": (Additive(budget=8.0),)}


@pytest.fixture(scope="module")
def found() -> Finding:
    return scan(NAME, StripesClip(PLANTED), null=clean_band(NAME))


def test_published_rates_are_those_of_the_triggers_on_the_measure_part(found: Finding):
    model, part = StripesClip(PLANTED), stripes_probe(101).measure
    classes = torch.eye(len(NAMES), WIDTH)
    clean = classify(embed(model, part), classes)
    for candidate, trigger in zip(found.record.candidates, found.triggers, strict=True):
        target, rate = NAMES.index(candidate.target), candidate.asr
        others = part.labels != target
        read = classify(embed(model, part, trigger.apply), classes)
        assert rate.value == pytest.approx((read[others] == target).float().mean().item())
        assert rate.n == int(others.sum()) == len(part) * 9 // 10
        natural = attack_rate(clean, part, clean, target, generator())
        assert candidate.natural.value == natural.value
        assert candidate.statistic == pytest.approx(log_odds(rate.value, rate.n))


def test_families_and_candidates_are_ranked_by_their_worst_place_in_the_null_band(found: Finding):
    record, null = found.record, {row.family: row.null for row in found.record.families}
    for row in record.families:
        rows = [c.statistic for c in record.candidates if c.family == row.family]
        assert (row.statistic, row.tested) == (max(rows), True)
        assert len(row.null) == len(clean_band(NAME).calibration.models)
    places = [excess_over_null(c.statistic, null[c.family]) for c in record.candidates]
    assert [c.excess for c in record.candidates] == places == sorted(places, reverse=True)
    assert {c.family for c in record.candidates} == {"patch", "additive"}
    assert record.score == shipped_suspicion().probability(record.excess)
    assert record.statistic == record.excess == max(row.excess for row in record.families)
    assert record.p_value == 1 / (len(clean_band(NAME).calibration.models) + 1)


@pytest.mark.parametrize(("tolerance", "settled"), [(1e9, True), (-1e9, False)])
def test_every_candidate_says_whether_its_search_had_settled(tolerance: float, settled: bool):
    changes = FAST | ADDITIVE | {"targeted": replace(TARGETED, tolerance=tolerance)}
    record = scan(NAME, StripesClip(), **changes).record
    assert {candidate.settled for candidate in record.candidates} == {settled}


@pytest.mark.parametrize("banded", [False, True])
def test_a_family_with_a_search_of_too_few_steps_was_not_tested(banded: bool):
    changes = FAST | {"targeted": replace(TARGETED, steps=19)}
    null = clean_band(NAME) if banded else None
    record = scan(NAME, StripesClip(), null=null, **changes).record
    assert all(row.reason and not row.tested for row in record.families)
    (tested,) = coverage(record, stripes_probe()).tested
    assert "short" in tested


def all_of_class(target: int) -> ProbeSet:
    """A probe set whose every measured image is of one class."""
    probe = stripes_probe(101)
    labels = torch.full_like(probe.measure.labels, target)
    return replace(probe, measure=replace(probe.measure, labels=labels))


def test_a_family_with_a_class_that_could_not_be_measured_was_not_tested(monkeypatch):
    probe = all_of_class(PLANTED)
    record = scan(NAME, StripesClip(PLANTED), probe=probe, **ADDITIVE, candidates=3).record
    assert NAMES[PLANTED] not in {row.target for row in record.candidates}
    (row,) = record.families
    assert (row.tested, repr(NAMES[PLANTED]) in row.reason) == (False, True)
    pairs = [(Additive(), PLANTED)]
    monkeypatch.setattr(TriggerInversion, "_candidates", lambda *_, **__: pairs)
    with pytest.raises(InconclusiveError, match=f"additive: .* '{NAMES[PLANTED]}'"):
        scan(NAME, StripesClip(), probe=probe, **FAST | ADDITIVE)


def test_too_few_images_to_measure_on_are_said_before_anything_is_searched():
    probe = stripes_probe()
    few = ProbePart(*(rows[: MIN_MEASURE - 1] for rows in vars(probe.measure).values()))
    with pytest.raises(InconclusiveError, match=f"{MIN_MEASURE - 1} probe images"):
        scan(NAME, StripesClip(), probe=replace(probe, measure=few))


def test_without_a_null_band_a_strong_trigger_and_weak_controls_are_shown():
    """Where every search chooses one class, another is tried, or nothing shows it is special."""
    record = scan(NAME, StripesClip(PLANTED), **ADDITIVE, candidates=1).record
    assert (record.score, record.p_value, record.excess) == (None, None, None)
    first, second, *others = (candidate.target for candidate in record.candidates)
    assert first == NAMES[PLANTED]
    assert first not in (second, *others)
    assert concluded(record) is Outcome.BACKDOORED


def test_every_stage_is_told():
    told: set[str] = set()
    TriggerInversion(**FAST | ADDITIVE).detect(
        Subject(StripesClip(PLANTED), stripes_probe()),
        None,
        generator=generator(),
        progress=lambda stage, done, total: told.add(stage.partition(" (")[0]),
    )
    assert told == {"collapse inversion", "targeted screen", "targeted inversion"}


def test_a_null_band_without_a_searched_family_is_refused():
    rows = [
        model.model_copy(update={"statistics": {"patch": model.statistics["patch"]}})
        for model in clean_band(NAME).calibration.models
    ]
    patch_only = Band(Calibration(key="stripes", command="fakes", models=tuple(rows)), "0" * 64)
    with pytest.raises(UsageError, match="no additive"):
        scan(NAME, StripesClip(), null=patch_only, **FAST)
