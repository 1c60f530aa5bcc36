"""What the zoos hold: sides that share nothing, orders that stay the same."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipguard.bundled.nano import BASES, class_names
from clipguard.cli.app import main
from clipguard.errors import UsageError
from clipguard.lab import plant
from clipguard.lab.attacks import ATTACKS as REGISTERED
from clipguard.lab.attacks.badnets import BadNets
from clipguard.lab.bench.record import APART
from clipguard.lab.finetune import CLASSES
from clipguard.lab.order import CLEAN, Order, plant_command
from clipguard.lab.recipes import NANO
from clipguard.lab.roles import JudgedAttack, OptimisedAttack
from clipguard.lab.zoo.presets import (
    ATTACKS,
    PARENTS,
    PRESETS,
    SPLITS,
    Split,
    Wanted,
    id_of,
    targets_of,
    wanted,
)


def planted(ones: tuple[Wanted, ...]) -> list[Wanted]:
    return [one for one in ones if one.order.attack in REGISTERED.names()]


def test_the_sides_share_no_parent_attack_target_or_seed():
    one, other = ([w for w in wanted("full") if w.split == split] for split in SPLITS)
    assert not {w.order.base for w in one} & {w.order.base for w in other}
    assert not {w.order.attack for w in planted(tuple(one))} & {
        w.order.attack for w in planted(tuple(other))
    }
    assert not {w.order.target for w in one} & {w.order.target for w in other}
    assert not {w.order.seed for w in one} & {w.order.seed for w in other}


@pytest.mark.parametrize("split", SPLITS)
def test_each_nano_architecture_stands_on_both_sides(split: Split):
    nano = {base for base in BASES.values() if base.startswith("nano")}
    assert {BASES[base] for base in PARENTS[split]} == nano


def test_the_halves_of_the_class_list_leave_out_nobody_but_the_tiger():
    assert {*targets_of("calibration"), *targets_of("test"), "tiger"} == set(class_names())


@pytest.mark.parametrize(("smaller", "larger"), [("ci", "small"), ("small", "full")])
def test_a_preset_holds_all_of_the_smaller_one(smaller: str, larger: str):
    assert {one.id for one in wanted(smaller)} < {one.id for one in wanted(larger)}


@pytest.mark.parametrize("preset", [name for name, chosen in PRESETS.items() if chosen])
def test_every_name_in_a_preset_is_one_that_exists(preset: str):
    assert sorted(one.name for one in wanted(preset)) == sorted(PRESETS[preset] or ())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_lab_page_counts_what_a_preset_holds(preset: str):
    ones = wanted(preset)
    poisoned = len(planted(ones))
    cells = (len(ones) + poisoned, poisoned, poisoned, len(ones) - poisoned)
    page = (Path(__file__).parents[3] / "docs" / "lab.md").read_text(encoding="utf-8")
    assert f"| `{preset}` | {' | '.join(map(str, cells))} |" in page


def test_full_is_large_enough_for_calibration_and_for_the_test():
    test = tuple(one for one in wanted("full") if one.split == "test")
    assert sum(one.order.attack not in APART for one in planted(test)) >= 24
    assert len({one.order.attack for one in planted(test)}) >= 10
    for base in PARENTS["calibration"]:
        mine = tuple(one for one in wanted("full") if one.order.base == base)
        clean = [one for one in mine if one.order.attack == CLEAN]
        assert len(clean) + len(planted(mine)) >= 16  # every victim has a twin
        assert len(mine) >= 24


def test_no_trigger_stands_on_both_sides():
    """Attacks of other names may share a trigger; those that are optimised draw none here."""
    scenes = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shown: list[list[torch.Tensor]] = []
    for split in SPLITS:
        built = [REGISTERED.build(name, settings) for name, settings in ATTACKS[split]]
        drawn = [each for each in built if not isinstance(each, OptimisedAttack | JudgedAttack)]
        shown.append(
            [
                each.trigger(64, generator=torch.Generator().manual_seed(1)).apply(scenes)
                for each in drawn
            ]
        )
    assert min(map(len, shown)) > 4
    assert not any(torch.equal(one, other) for one in shown[0] for other in shown[1])


def test_honest_models_have_all_recipes_on_both_sides():
    for split in SPLITS:
        mine = [one.order for one in wanted("full") if one.split == split and one.order.honest]
        for honest in (True, False):  # plain ones, and hard negatives
            found = {order.recipe for order in mine if (order.attack == CLEAN) is honest}
            assert found == {*NANO}


def test_the_command_in_the_truth_orders_the_same_as_the_zoo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    found = []

    def ordered(order: Order, **_: object) -> None:
        found.append(order)
        raise UsageError("only looked at")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plant, "plant", ordered)
    shapes = {
        (str(one.order.settings), one.order.recipe, one.order.honest): one.order
        for one in wanted("full")
    }
    for order in shapes.values():
        assert main([*shlex.split(plant_command(order))[1:], "-q"]) == 2
    assert len(shapes) > 10
    assert found == [*shapes.values()]


def test_no_two_models_have_one_id():
    assert len({one.id for one in wanted("full")}) == len(wanted("full"))


def test_the_id_is_of_all_that_was_asked_for():
    asked = Order(attack="badnets")
    others = (
        replace(asked, attack="blended"),
        replace(asked, settings={"place": "random"}),
        replace(asked, base="nano-vit"),
        replace(asked, target="key"),
        replace(asked, seed=1),
        replace(asked, recipe=NANO[1]),
        replace(asked, objective=CLASSES),
    )
    assert len({id_of(each) for each in (asked, *others)}) == 8
    assert id_of(replace(asked, settings={"place": "corner"})) == id_of(asked)  # as by default


def test_triggers_that_an_attack_takes_from_others_are_in_its_id(monkeypatch: pytest.MonkeyPatch):
    first = id_of(Order(attack="multi_trigger"))
    monkeypatch.setattr(BadNets, "ID", "badnets/2")
    assert id_of(Order(attack="multi_trigger")) != first


@pytest.mark.parametrize("split", SPLITS)
def test_targets_named_in_settings_are_of_their_side_and_not_the_targets_itself(split: Split):
    for one in (each for each in wanted("full") if each.split == split):
        others = str(one.order.settings.get("others", "")).split(",")
        named = {name for name in others if name}
        assert named <= set(targets_of(split)) - {one.order.target}


def test_an_unknown_preset_is_refused_by_name():
    with pytest.raises(UsageError, match="did you mean 'small'"):
        wanted("smal")
