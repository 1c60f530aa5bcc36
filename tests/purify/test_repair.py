"""Purification as a workflow, on a closed-form CLIP whose backdoor is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from fakes import NAMES, StripesClip, Untouched, hum, no_progress, stripes_probe

from clipguard.detect.roles import Finding
from clipguard.errors import UsageError
from clipguard.probe.sets import ProbePart, Subject
from clipguard.purify.methods.cbpt import Cbpt
from clipguard.purify.realign import Realign
from clipguard.purify.repair import Repaired, RepairSettings, repair
from clipguard.record import (
    HEAD_SCOPE,
    TOWER_SCOPE,
    Candidate,
    DetectorRecord,
    FamilyRecord,
    PurificationRecord,
    Rate,
    TriggerRecord,
)
from clipguard.search.families.additive import Additive
from clipguard.search.families.patch import Patch
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.roles import Trigger

PLANTED, OTHER = 3, 5
STRONG = Additive(budget=20.0)
CBPT = Cbpt(
    steps=300,
    learning_rate=0.05,
    consistency_weight=1.0,
    spread_consistency_weight=1.0,
    triggered_weight=2.0,
    margin=4.0,
    lent_weight=0.1,
)
SETTINGS = RepairSettings(
    realign=None,
    purifier=CBPT,
    alone=CBPT,
    against={"additive": (STRONG, Additive(budget=16.0)), "patch": (Patch(area=0.05),)},
    again={"additive": (STRONG,), "patch": (Patch(area=0.05),)},
    families=(Additive(),),
    fresh=Targeted(steps=100, batch=16),
    targeted=Targeted(steps=100, batch=16),
)
SHARE = Rate(value=0.5, low=0.4, high=0.6, n=70)


NOTHING = Trigger("additive", lambda images: images, 0.0, "share of the image", {})


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
        evidence="planted",
        families=(FamilyRecord(family="additive", tested=True, statistic=4.0),),
        candidates=candidates,
    )
    return Finding(record, tuple(trigger for _, trigger in rows))


def run(
    found: Finding, *, seed: int = 0, settings: RepairSettings = SETTINGS
) -> tuple[PurificationRecord, Repaired]:
    subject = Subject(StripesClip(planted=PLANTED), stripes_probe())
    return repair(subject, found, settings, seed=seed, progress=no_progress)


@dataclass
class Spy:
    """Stands in for a purifier or an inverter and keeps what it was called with."""

    method: Any
    calls: list[tuple[tuple[Any, ...], int]] = field(default_factory=list)

    def __getattr__(self, verb: str) -> Any:
        def call(*given: Any, generator: torch.Generator, **named: Any) -> Any:
            self.calls.append((given, generator.initial_seed()))
            return getattr(self.method, verb)(*given, generator=generator, **named)

        return call


def test_the_true_trigger_loses_its_hold_and_clean_accuracy_stays():
    record, made = run(finding((PLANTED, hum())))
    before, after = record.before, record.after
    assert before.asr.value > 0.9
    assert after.asr.value < 0.1
    assert after.clean_accuracy.value >= before.clean_accuracy.value - 0.02
    torch.testing.assert_close(made.classes.norm(dim=1), torch.ones(len(NAMES)))
    assert (made.tower, made.head.classes is made.classes) == (None, True)
    assert set(record.losses) == {"classification", "alignment", "consistency", "lent"}
    assert (record.scope, record.head, record.statement) == ("head", None, HEAD_SCOPE)


def test_rates_are_those_of_the_worst_trigger_and_of_no_other():
    record, _ = run(finding((PLANTED, NOTHING), (PLANTED, hum())))
    assert record.before.asr.value < 0.1  # the first trigger does nothing


def families_used(found: Finding) -> list[str]:
    spy = Spy(CBPT)
    run(found, settings=replace(SETTINGS, purifier=spy))
    (((_, triggers, target), _),) = spy.calls
    assert target == PLANTED
    return [trigger.family for trigger in triggers]


@pytest.mark.parametrize(("low", "used"), [(0.7, False), (0.9, True)])
def test_it_purifies_against_the_worst_family_and_others_that_work(low: float, used: bool):
    assert families_used(finding((PLANTED, hum()), (OTHER, NOTHING))) == ["additive"] * 2
    found = finding((PLANTED, hum()), (PLANTED, NOTHING))
    first, second = found.record.candidates
    rate = Rate(value=0.95, low=low, high=0.99, n=70)
    changed = second.model_copy(update={"family": "patch", "asr": rate})
    record = found.record.model_copy(update={"candidates": (first, changed)})
    assert ("patch" in families_used(Finding(record, found.triggers))) is used


def test_the_new_search_goes_through_the_purified_head_with_draws_of_its_own():
    fresh, spy = Spy(SETTINGS.fresh), Spy(SETTINGS.targeted)
    changed = replace(SETTINGS, fresh=fresh, targeted=spy)
    record, head = run(finding((PLANTED, hum())), seed=4, settings=changed)
    before, (((search, _), seed),) = fresh.calls, spy.calls
    assert len(before) == len(set(SETTINGS.against["additive"]))
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
        (Targeted(steps=19), False, False),
        (Targeted(steps=20, tolerance=-99.0), True, False),
        (Targeted(steps=20, tolerance=99.0), True, True),
    ],
)
def test_the_record_says_how_far_the_new_search_came(
    targeted: Targeted, searched: bool, settled: bool
):
    record, _ = run(finding((PLANTED, hum())), settings=replace(SETTINGS, targeted=targeted))
    (row,) = record.reinversion
    assert (row.searched, row.settled) == (searched, settled)


@pytest.mark.parametrize(
    ("budgets", "used"),
    [((20.0, 15.0), [20.0, 15.0]), ((20.0, 0.1), [20.0]), ((0.1,), [0.1])],
    ids=["both hold", "one holds", "none holds"],
)
def test_the_record_names_the_triggers_that_were_tuned_against(budgets, used: list[float]):
    against, spy = {"additive": tuple(Additive(budget=each) for each in budgets)}, Spy(CBPT)
    changed = replace(SETTINGS, against=against, purifier=spy)
    record, _ = run(finding((PLANTED, hum())), settings=changed)
    (((_, triggers, _), _),) = spy.calls
    told = [(row.family, row.size, row.unit) for row in record.against]
    assert told == [(trigger.family, trigger.size, trigger.unit) for trigger in triggers]
    assert [row.size for row in record.against] == pytest.approx(used, rel=0.05)


def test_a_seed_gives_the_same_head_and_the_model_is_left_alone():
    state = torch.get_rng_state()
    (one, first), (two, second) = (run(finding((PLANTED, hum()))) for _ in range(2))
    assert one == two
    assert torch.equal(first.classes, second.classes)
    assert torch.equal(torch.get_rng_state(), state)


def test_there_is_nothing_to_purify_against_without_a_trigger():
    with pytest.raises(ValueError, match="no inverted trigger"):
        run(finding())


@pytest.mark.parametrize(("way", "prompts"), [("realign", False), ("realign+cbpt", True)])
def test_a_repaired_tower_reads_what_triggered_images_show(way: str, prompts: bool):
    settings = replace(SETTINGS, realign=Realign(steps=60, learning_rate=3e-2))
    suspect = Subject(StripesClip(planted=PLANTED), stripes_probe())
    untouched = Untouched(suspect.model)
    found = finding((PLANTED, hum()))
    record, made = repair(suspect, found, settings.by(way), seed=0, progress=no_progress)
    assert record.after.asr.value < 0.1 < 0.9 < record.before.asr.value
    assert record.after.poisoned_accuracy.value > 0.8
    assert (record.method, record.scope, record.statement) == (way, "tower", TOWER_SCOPE)
    assert {"clean_embedding", "triggered_embedding"} < record.losses.keys() or not prompts
    assert (made.head is not None) is prompts
    assert len(record.against) > len(SETTINGS.against["additive"])  # new ones joined
    assert torch.equal(made.classes, suspect.classes) is not prompts
    untouched.check()


def only(part: ProbePart, kept: Sequence[int], names: Sequence[int]) -> ProbePart:
    """Rows of the classes `kept`, numbered as they stand in `names`."""
    rows = torch.isin(part.labels, torch.tensor(kept))
    labels = torch.tensor([names.index(label) for label in part.labels[rows].tolist()])
    return ProbePart(part.images[rows], labels, part.drawings[rows])


@pytest.mark.parametrize(
    ("names", "tuned"),
    [
        (range(len(NAMES)), [name for name in range(len(NAMES)) if name != PLANTED]),
        ((PLANTED, OTHER), [PLANTED, OTHER]),
    ],
    ids=["no image of the target", "two classes"],
)
def test_a_repair_works_with_odd_class_lists(names: Sequence[int], tuned: list[int]):
    whole = stripes_probe()
    probe = replace(
        whole,
        optimise=only(whole.optimise, tuned, names),
        select=only(whole.select, tuned, names),
        measure=only(whole.measure, names, names),
        class_names=tuple(NAMES[name] for name in names),
    )
    settings = replace(SETTINGS, realign=Realign(steps=60, learning_rate=3e-2))
    suspect = Subject(StripesClip(planted=PLANTED), probe)
    record, _ = repair(suspect, finding((PLANTED, hum())), settings, seed=0, progress=no_progress)
    assert record.after.asr.value < 0.1 < 0.9 < record.before.asr.value
    assert record.after.clean_accuracy.value > 0.8


def test_a_way_that_does_not_exist_is_refused():
    assert SETTINGS.by("cbpt").realign is None
    with pytest.raises(UsageError, match=r"realign\+cbpt"):
        SETTINGS.by("realing+cbpt")
