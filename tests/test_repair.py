"""Purification as a workflow, on a closed-form CLIP whose backdoor is known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from fakes import NAMES, StripesClip, hum, stripes_probe

from clipguard import repair as repair_module
from clipguard.methods import INVERTERS, PURIFIERS
from clipguard.profiles import RepairSettings
from clipguard.record import (
    Candidate,
    DetectorRecord,
    FamilyRecord,
    Outcome,
    PurificationRecord,
    Rate,
    TriggerRecord,
)
from clipguard.repair import repair
from clipguard.types import Finding, PurifiedHead, Trigger

PLANTED, OTHER = 3, 5
SETTINGS = RepairSettings(
    settings={
        "steps": 300,
        "learning_rate": 0.05,
        "consistency_weight": 1.0,
        "triggered_weight": 2.0,
        "margin": 4.0,
    },
    against={
        "additive": (("additive", {"budget": 20.0}),) * 2,
        "patch": (("patch", {"area": 0.05}),),
    },
    families={"additive": {}},
    targeted={"steps": 100, "batch": 16},
)
SHARE = Rate(value=0.5, low=0.4, high=0.6, n=70)


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def nothing() -> Trigger:
    """A trigger that changes nothing."""
    return Trigger("additive", lambda images: images, 0.0, "share of the image", {})


def finding(*rows: tuple[int, Trigger]) -> Finding:
    """What a detector would say that found `rows`, worst first."""
    candidates = tuple(
        Candidate(
            target=NAMES[target],
            family="additive",
            stage="targeted",
            asr=SHARE,
            natural=SHARE,
            statistic=4.0,
            trigger=TriggerRecord(size=trigger.size, unit=trigger.unit),
        )
        for target, trigger in rows
    )
    record = DetectorRecord(
        name="inversion",
        outcome=Outcome.BACKDOORED,
        reason="planted",
        families=(FamilyRecord(family="additive", tested=True, statistic=4.0),),
        candidates=candidates,
    )
    return Finding(record, tuple(trigger for _, trigger in rows))


def run(
    found: Finding, *, seed: int = 0, settings: RepairSettings = SETTINGS
) -> tuple[PurificationRecord, PurifiedHead]:
    return repair(
        StripesClip(planted=PLANTED), stripes_probe(), found, settings, seed=seed, progress=quiet
    )


@dataclass
class Spy:
    """Stands in for a method folder and keeps what its methods were called with."""

    folder: Any
    verb: str
    calls: list[tuple[tuple[Any, ...], int]] = field(default_factory=list)

    def build(self, name: str, settings: Any) -> Spy:
        self.method = self.folder.build(name, settings)
        return self

    def __getattr__(self, name: str) -> Any:
        assert name == self.verb

        def call(*given: Any, generator: torch.Generator, **named: Any) -> Any:
            self.calls.append((given, generator.initial_seed()))
            return getattr(self.method, name)(*given, generator=generator, **named)

        return call


def test_the_true_trigger_loses_its_hold_and_clean_accuracy_stays():
    record, head = run(finding((PLANTED, hum())))
    assert record.before.asr.value > 0.9
    assert record.after.asr.value < 0.1
    assert record.before.clean_accuracy is not None
    assert record.after.clean_accuracy is not None
    assert record.after.clean_accuracy.value >= record.before.clean_accuracy.value - 0.02
    torch.testing.assert_close(head.classes.norm(dim=1), torch.ones(len(NAMES)))
    assert set(record.losses) == {"classification", "alignment", "consistency"}
    assert (record.scope, record.head) == ("head", None)
    assert "image tower stays poisoned" in record.statement


def test_rates_are_those_of_the_worst_trigger_and_of_no_other():
    record, _ = run(finding((PLANTED, nothing()), (PLANTED, hum())))
    assert record.before.asr.value < 0.1  # the first trigger does nothing


def families_used(monkeypatch: pytest.MonkeyPatch, found: Finding) -> list[str]:
    spy = Spy(PURIFIERS, "purify")
    monkeypatch.setattr(repair_module, "PURIFIERS", spy)
    run(found)
    (((_, _, triggers, target), _),) = spy.calls
    assert target == PLANTED
    return [trigger.family for trigger in triggers]


def test_it_purifies_against_fresh_triggers_of_the_worst_family(monkeypatch: pytest.MonkeyPatch):
    found = finding((PLANTED, hum()), (OTHER, nothing()))
    assert families_used(monkeypatch, found) == ["additive"] * 2


@pytest.mark.parametrize(("low", "used"), [(0.7, False), (0.9, True)])
def test_a_second_family_counts_only_if_its_trigger_works(
    monkeypatch: pytest.MonkeyPatch, low: float, used: bool
):
    found = finding((PLANTED, hum()), (PLANTED, nothing()))
    first, second = found.record.candidates
    rate = Rate(value=0.95, low=low, high=0.99, n=70)
    changed = second.model_copy(update={"family": "patch", "asr": rate})
    record = found.record.model_copy(update={"candidates": (first, changed)})
    families = families_used(monkeypatch, Finding(record, found.triggers))
    assert ("patch" in families) is used


def test_the_new_search_goes_through_the_purified_head_with_draws_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
):
    spy = Spy(INVERTERS, "invert")
    monkeypatch.setattr(repair_module, "INVERTERS", spy)
    record, head = run(finding((PLANTED, hum())), seed=4)
    *before, last = spy.calls
    assert len(before) == len(SETTINGS.against["additive"])
    (search, _), seed = last
    assert torch.equal(search.classes, head.classes)
    assert search.target == PLANTED
    for (earlier, _), used in before:
        assert not torch.equal(earlier.classes, head.classes)
        assert used != seed
    (row,) = record.reinversion
    assert (row.family, row.target, row.original_statistic) == ("additive", NAMES[PLANTED], 4.0)


@pytest.mark.parametrize(
    ("targeted", "searched", "settled"),
    [
        ({"steps": 19}, False, False),
        ({"steps": 20, "tolerance": -99.0}, True, False),
        ({"steps": 20, "tolerance": 99.0}, True, True),
    ],
)
def test_the_record_says_how_far_the_new_search_came(
    targeted: dict[str, object], searched: bool, settled: bool
):
    record, _ = run(finding((PLANTED, hum())), settings=replace(SETTINGS, targeted=targeted))
    (row,) = record.reinversion
    assert (row.searched, row.settled) == (searched, settled)


def test_the_record_names_every_trigger_that_was_tuned_against(monkeypatch: pytest.MonkeyPatch):
    spy = Spy(PURIFIERS, "purify")
    monkeypatch.setattr(repair_module, "PURIFIERS", spy)
    budgets = {"additive": (("additive", {"budget": 20.0}), ("additive", {"budget": 15.0}))}
    record, _ = run(finding((PLANTED, hum())), settings=replace(SETTINGS, against=budgets))
    (((_, _, triggers, _), _),) = spy.calls
    assert [(row.family, row.size, row.unit) for row in record.against] == [
        (trigger.family, trigger.size, trigger.unit) for trigger in triggers
    ]
    assert [row.size for row in record.against] == pytest.approx([20.0, 15.0], rel=0.05)


def test_a_trigger_that_does_not_hold_is_not_tuned_against():
    budgets = {"additive": (("additive", {"budget": 20.0}), ("additive", {"budget": 0.1}))}
    record, _ = run(finding((PLANTED, hum())), settings=replace(SETTINGS, against=budgets))
    assert [row.size for row in record.against] == pytest.approx([20.0], rel=0.05)
    none = {"additive": (("additive", {"budget": 0.1}),)}
    record, _ = run(finding((PLANTED, hum())), settings=replace(SETTINGS, against=none))
    assert len(record.against) == 1


def test_a_seed_gives_the_same_head_and_the_model_is_left_alone():
    state = torch.get_rng_state()
    (one, first), (two, second) = (run(finding((PLANTED, hum()))) for _ in range(2))
    assert one == two
    assert torch.equal(first.classes, second.classes)
    assert torch.equal(torch.get_rng_state(), state)


def test_there_is_nothing_to_purify_against_without_a_trigger():
    with pytest.raises(ValueError, match="no inverted trigger"):
        run(finding())
