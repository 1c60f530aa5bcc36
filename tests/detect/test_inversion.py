"""The main verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from fakes import NAMES, SETTINGS, WIDTH, StripesClip, clean_band, generator, scan, stripes_probe

from clipguard.audit.coverage import coverage
from clipguard.detect.inversion import TriggerInversion
from clipguard.detect.null_band import Band, Calibration, log_odds, standardise
from clipguard.detect.roles import Finding
from clipguard.detect.score import shipped_suspicion
from clipguard.errors import InconclusiveError, UsageError
from clipguard.lab.comparators import DETECTORS
from clipguard.probe.rates import attack_rate, classify, embed
from clipguard.probe.sets import ProbeSet
from clipguard.record import FamilyRecord, Outcome
from clipguard.search.inverters import INVERTERS

NAME = "inversion"
PLANTED = 3
LIMITS = {
    "likely": shipped_suspicion().probability(10.0),
    "doubtful": shipped_suspicion().probability(4.0),
}
FAST = {
    "collapse": {"steps": 20, "batch": 40, "restarts": 1},
    "screen": {"steps": 2, "images": 10},
    "targeted": {"steps": 20, "batch": 80, "tolerance": 1e9},
}


@pytest.fixture(scope="module")
def found() -> Finding:
    return scan(NAME, StripesClip(PLANTED), null=clean_band(NAME))


@dataclass(frozen=True)
class Told:
    """A null band that says what a test wants."""

    excess: float
    p_value: float

    def compare(self, statistics: Mapping[str, float]):
        rows = [
            FamilyRecord(family=name, tested=True, statistic=value, excess=self.excess)
            for name, value in statistics.items()
        ]
        return tuple(rows), self.excess, self.p_value


def test_published_rates_are_those_of_the_triggers_on_the_measure_part(found: Finding):
    model, part = StripesClip(PLANTED), stripes_probe(101).measure
    classes = torch.eye(len(NAMES), WIDTH)
    clean = classify(embed(model, part), classes)
    for candidate, trigger in zip(found.record.candidates, found.triggers, strict=True):
        target = NAMES.index(candidate.target)
        others = part.labels != target
        read = classify(embed(model, part, trigger.apply), classes)
        assert candidate.asr.value == pytest.approx((read[others] == target).float().mean().item())
        assert candidate.asr.n == int(others.sum()) == len(part) * 9 // 10
        natural = attack_rate(clean, part, clean, target, generator())
        assert candidate.natural.value == natural.value
        assert candidate.statistic == pytest.approx(log_odds(candidate.asr.value, candidate.asr.n))


def test_the_statistic_of_a_family_is_that_of_its_worst_target(found: Finding):
    for record in found.record.families:
        rows = [c.statistic for c in found.record.candidates if c.family == record.family]
        assert record.statistic == max(rows)
        assert record.tested
        assert len(record.null) == len(clean_band(NAME).calibration.models)


def test_candidates_of_all_families_are_ranked_by_their_place_in_the_null_band(found: Finding):
    null = {record.family: record.null for record in found.record.families}
    places = [standardise(c.statistic, null[c.family]) for c in found.record.candidates]
    assert places == sorted(places, reverse=True)
    assert {c.family for c in found.record.candidates} == {"patch", "additive"}


def test_the_score_is_the_fitted_chance_at_the_excess_of_the_maximum(found: Finding):
    record = found.record
    assert record.score == shipped_suspicion().probability(record.excess)
    assert record.statistic == record.excess
    assert record.p_value == 1 / (len(clean_band(NAME).calibration.models) + 1)
    assert record.excess == max(family.excess for family in record.families)


@pytest.mark.parametrize(
    ("excess", "p_value", "outcome"),
    [
        (20.0, 0.05, Outcome.BACKDOORED),
        (20.0, 0.06, Outcome.SUSPICIOUS),
        (5.0, 0.05, Outcome.SUSPICIOUS),
        (-1.0, 0.01, Outcome.NO_EVIDENCE),
        (-1.0, 0.06, Outcome.NO_EVIDENCE),
        (-9.0, 1.0, Outcome.INCONCLUSIVE),
    ],
)
def test_evidence_needs_both_a_small_p_and_a_high_score_to_be_a_finding(
    excess: float, p_value: float, outcome: Outcome
):
    record = scan(
        NAME, StripesClip(), null=Told(excess, p_value), alpha=0.05, **(FAST | LIMITS)
    ).record
    assert record.outcome is outcome


@pytest.mark.parametrize(("excess", "p_value"), [(4.0, 0.05), (3.9, 0.05), (3.9, 0.06)])
def test_the_reason_gives_distance_and_p_value(excess: float, p_value: float):
    told = Told(excess, p_value)
    reason = scan(NAME, StripesClip(), null=told, alpha=0.05, **FAST).record.reason
    assert f"{excess:+.1f} standard deviations from known-clean" in reason
    assert f"(p = {p_value:.3f})" in reason


def test_a_search_that_did_not_settle_turns_no_evidence_into_inconclusive_and_nothing_else():
    unsettled = FAST | {"targeted": {"steps": 20, "batch": 80, "tolerance": -1e9}}
    for told, outcome in (
        (Told(0.0, 0.9), Outcome.INCONCLUSIVE),
        (Told(20.0, 0.9), Outcome.SUSPICIOUS),
        (Told(20.0, 0.01), Outcome.BACKDOORED),
    ):
        record = scan(
            NAME, StripesClip(), null=told, alpha=0.05, ahead=-1e9, **(unsettled | LIMITS)
        ).record
        assert record.outcome is outcome


def test_an_unsettled_search_counts_only_where_it_is_ahead_of_the_clean_models():
    unsettled = FAST | {"targeted": {"steps": 20, "batch": 80, "tolerance": -1e9}}
    behind = scan(NAME, StripesClip(), null=Told(0.0, 0.9), ahead=1e9, **unsettled).record
    assert behind.outcome is Outcome.NO_EVIDENCE


@pytest.mark.parametrize("null", [None, Told(0.0, 0.9), Told(9.0, 0.9)])
def test_a_family_with_a_search_of_too_few_steps_was_not_tested(null: Told | None):
    finding = scan(NAME, StripesClip(), null=null, **FAST | {"targeted": {"steps": 19}})
    assert finding.gaps
    for row in finding.record.families:
        assert not row.tested
        worst = next(c for c in finding.record.candidates if c.family == row.family)
        assert f"the search towards {worst.target!r} had too few steps" in row.reason
    tested = coverage(finding.record, stripes_probe()).tested
    assert tested == (f"short targeted searches that cover all {len(NAMES)} classes",)


def all_of_class(target: int) -> ProbeSet:
    """A probe set whose every measured image is of one class."""
    probe = stripes_probe(101)
    labels = torch.full_like(probe.measure.labels, target)
    return replace(probe, measure=replace(probe.measure, labels=labels))


@pytest.mark.parametrize("null", [None, Told(0.0, 0.9), Told(9.0, 0.9)])
def test_a_family_with_a_class_that_could_not_be_measured_was_not_tested(null: Told | None):
    families = {"additive": {"budget": 8.0}}
    model, probe = StripesClip(PLANTED), all_of_class(PLANTED)
    finding = scan(NAME, model, null=null, probe=probe, families=families, candidates=3)
    assert NAMES[PLANTED] not in {row.target for row in finding.record.candidates}
    (row,) = finding.record.families
    assert not row.tested
    assert f"every probe image is of class {NAMES[PLANTED]!r}" in row.reason
    assert finding.record.outcome is not Outcome.NO_EVIDENCE


def test_a_family_of_which_no_class_could_be_measured_names_the_class(monkeypatch):
    monkeypatch.setattr(TriggerInversion, "_candidates", lambda *_, **__: [("additive", PLANTED)])
    with pytest.raises(InconclusiveError, match=f"additive: every .* of class '{NAMES[PLANTED]}'"):
        scan(NAME, StripesClip(), probe=all_of_class(PLANTED), families={"additive": {}}, **FAST)


def test_strong_evidence_counts_even_where_the_null_band_is_too_small_to_show_it():
    record = scan(
        NAME, StripesClip(PLANTED), null=Told(3.0, 0.17), strong_asr=0.9, control_asr=0.6
    ).record
    assert record.outcome is Outcome.BACKDOORED


def test_a_search_that_finds_less_than_on_any_clean_model_was_blinded():
    record = scan(NAME, StripesClip(), null=Told(-9.0, 1.0), **FAST).record
    assert record.outcome is Outcome.INCONCLUSIVE
    assert "less than on any clean model" in record.reason


class TestWithoutANullBand:
    def test_one_class_that_stands_far_above_the_others_is_a_finding(self):
        record = scan(NAME, StripesClip(PLANTED), strong_asr=0.9, control_asr=0.6).record
        assert record.outcome is Outcome.BACKDOORED
        assert "far more than any other class" in record.reason
        assert (record.score, record.p_value, record.excess) == (None, None, None)

    def test_what_other_classes_yield_as_well_is_no_finding(self):
        record = scan(NAME, StripesClip(PLANTED), strong_asr=0.9, control_asr=0.0).record
        assert record.outcome is Outcome.INCONCLUSIVE

    def test_a_control_class_is_tried_where_every_search_chose_the_same(self):
        families = {"additive": {"budget": 8.0}}
        record = scan(NAME, StripesClip(PLANTED), families=families, candidates=1).record
        first, *others = (candidate.target for candidate in record.candidates)
        assert first == NAMES[PLANTED]
        assert others
        assert first not in others
        assert record.outcome is Outcome.BACKDOORED

    def test_a_clean_model_is_inconclusive_and_the_reason_says_why(self):
        record = scan(NAME, StripesClip(), **FAST).record
        assert record.outcome is Outcome.INCONCLUSIVE
        assert "no known-clean models to compare with" in record.reason


def test_every_stage_is_told():
    told: set[str] = set()
    detector = DETECTORS.build(NAME, FAST | {"families": {"additive": {}}})
    detector.detect(
        StripesClip(PLANTED),
        stripes_probe(),
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
    with pytest.raises(UsageError, match="no additive statistics; calibrate again"):
        scan(NAME, StripesClip(), null=patch_only, **FAST)


@pytest.mark.parametrize(
    "change",
    [
        {"families": {"patch": {"area": 0.021}, "additive": {"budget": 8.0}}},
        {"families": {"patch": {"area": 0.02}}},
        {"collapse": {"steps": 41}},
        {"screen": {"images": 11}},
        {"targeted": {"temperature": 0.06}},
        {"candidates": 7},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_every_setting_that_changes_the_statistic(change):
    settings = SETTINGS[NAME]
    plain = DETECTORS.build(NAME, settings).fingerprint()
    changed = DETECTORS.build(NAME, settings | change).fingerprint()
    assert plain != changed
    assert plain == DETECTORS.build(NAME, settings).fingerprint()


def test_a_default_that_is_spelled_out_leaves_the_fingerprint_as_it_is():
    targeted: Any = INVERTERS.build("targeted")
    spelled, silent = (
        DETECTORS.build(NAME, {"targeted": settings}).fingerprint()
        for settings in ({"steps": targeted.steps}, {})
    )
    assert spelled == silent
