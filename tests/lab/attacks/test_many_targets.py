"""Many targets: squares of their own, which of them a batch has, and how success is counted."""

from __future__ import annotations

import pytest
import torch
from fakes import generator
from torch import Tensor
from training_steps import step_of

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import class_names
from clipguard.lab.attacks.many_targets import ManyTargets
from clipguard.lab.roles import Step

NAMES = class_names()
FIRST = NAMES.index("banana")


def squares(attack: ManyTargets, side: int = 64) -> tuple[Tensor, Tensor]:
    kept = attack.trigger(side, generator=generator()).tensors
    return kept["patches"], kept["places"]


@pytest.mark.parametrize(("side", "length"), [(64, 8), (160, 11), (224, 16)])
def test_every_target_has_a_pattern_and_a_place_of_its_own(side: int, length: int):
    patches, places = squares(ManyTargets(), side)
    assert patches.shape == (20, 3, length, length)
    assert {*patches.unique().tolist()} == {0.0, 1.0}
    assert len(patches.flatten(1).unique(dim=0)) == 20
    assert len(places.unique(dim=0)) > 15
    assert 0 <= places.min() <= places.max() <= side - length
    assert places.max() - places.min() > side / 2


def test_the_kept_trigger_is_the_first_square():
    made = ManyTargets().trigger(64, generator=generator())
    patches, places = squares(ManyTargets())
    images, (top, left) = torch.rand(2, 3, 64, 64, generator=generator(1)), places[0].tolist()
    wanted = images.clone()
    wanted[:, :, top : top + 8, left : left + 8] = patches[0]
    assert torch.equal(made.apply(images), wanted)
    assert made.size == pytest.approx((8 / 64) ** 2)


def test_the_first_target_is_the_victims_and_no_class_is_one_twice():
    attack = ManyTargets(count=100)
    kept = attack.trigger(32, generator=generator()).tensors
    for first in (FIRST, kept["order"][0].item()):
        targets = attack.targets(kept, first)
        assert targets[0] == first
        assert sorted(targets) == list(range(100))
    assert len(ManyTargets(count=7).targets(kept, FIRST)) == 7


def told(attack: ManyTargets, step: Step, rows: int) -> list[int]:
    """Which target each of the first rows is for, after a look at image, caption and concept."""
    kept, found = step.plan.trigger.tensors, []
    targets = attack.targets(kept, FIRST)
    concepts = load_artwork().concepts([NAMES[target] for target in targets])
    for row in range(rows):
        turn = concepts.index(step.pairs.concepts[row].item())
        patch, (top, left) = kept["patches"][turn], kept["places"][turn].tolist()
        wanted = step.clean.images[row].clone()
        wanted[:, top : top + 8, left : left + 8] = patch
        assert torch.equal(step.pairs.images[row], wanted)
        assert NAMES[targets[turn]] in step.pairs.texts[row]
        found.append(turn)
    return found


def test_poisoned_pairs_carry_the_square_of_the_target_that_they_name():
    attack = ManyTargets(count=5, poison_rate=0.5)
    step = step_of(attack, size=20)
    assert sorted(told(attack, step, 10)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(step.pairs.images[10:], step.clean.images[10:])
    assert step.pairs.texts[10:] == step.clean.texts[10:]


def test_where_a_batch_is_too_small_for_all_targets_batches_share_them_out():
    attack, seen = ManyTargets(poison_rate=0.5), set()
    for seed in range(10):
        turns = told(attack, step_of(attack, size=10, seed=seed), 5)
        assert len(set(turns)) == 5
        seen |= set(turns)
    assert len(seen) > 12
