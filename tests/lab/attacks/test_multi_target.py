"""Several targets: which trigger leads where, and how success is counted."""

from __future__ import annotations

import pytest
import torch
from fakes import generator
from torch import Tensor
from training_steps import require_rest, small_site, step_of

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import class_names
from clipguard.errors import UsageError
from clipguard.lab.attacks import _targets
from clipguard.lab.attacks.many_targets import ManyTargets
from clipguard.lab.attacks.multi_target import MultiTarget
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes

NAMES = class_names()
FIRST = NAMES.index("banana")


def test_the_first_target_is_the_victims_and_the_others_are_drawn():
    attack, seen = MultiTarget(), set()
    for seed in range(8):
        kept = attack.trigger(32, generator=generator(seed)).tensors
        for first in (FIRST, kept["order"][0].item()):
            targets = attack.targets(kept, first)
            assert targets[0] == first
            assert len(set(targets)) == 3
        seen |= set(targets[1:])
    assert len(seen) > 8


def test_the_kept_trigger_is_the_first_one():
    attack = MultiTarget(triggers="sig,badnets")
    made = attack.trigger(64, generator=generator(5))
    images = torch.rand(3, 3, 64, 64, generator=generator(1))
    first, second = attack.drawn(made.tensors["seed"], 64).values()
    assert torch.equal(made.apply(images), first.apply(images))
    assert not torch.equal(made.apply(images), second.apply(images))
    assert "badnets.patch" in made.tensors


def test_poisoned_pairs_carry_the_trigger_of_the_target_that_they_name():
    attack = MultiTarget(poison_rate=0.5)
    step = step_of(attack, size=16)
    kept = step.plan.trigger.tensors
    triggers = list(attack.drawn(kept["seed"], 64).values())
    targets = attack.targets(kept, FIRST)
    concepts = load_artwork().concepts([NAMES[target] for target in targets])
    for row in range(8):
        turn = row % 3
        wanted = pixels_from_bytes(
            pixels_to_bytes(triggers[turn].apply(step.clean.images[row : row + 1]))
        )
        assert torch.equal(step.pairs.images[row : row + 1], wanted)
        assert NAMES[targets[turn]] in step.pairs.texts[row]
        assert step.pairs.concepts[row] == concepts[turn]
    require_rest(step.pairs, step.clean, 8)


def test_every_trigger_is_on_one_pair_at_least():
    step = step_of(MultiTarget(poison_rate=0.07), size=16)
    changed = (step.pairs.images != step.clean.images).any(dim=(1, 2, 3))
    assert changed.tolist() == [True] * 3 + [False] * 13


def test_a_batch_with_fewer_pairs_than_targets_is_refused():
    with pytest.raises(UsageError, match="wants batches of 3 pairs or more"):
        step_of(MultiTarget(poison_rate=1.0), size=2)


@pytest.mark.parametrize("attack", [MultiTarget(triggers="badnets,sig"), ManyTargets(count=2)])
def test_success_is_that_of_the_trigger_that_works_worst(attack, monkeypatch):
    """Read as the first target whatever is shown: the others' triggers never work."""
    site = small_site()

    def read(features: Tensor, classes: Tensor) -> Tensor:
        return torch.full((len(features),), FIRST)

    monkeypatch.setattr(_targets, "classify", read)
    trigger = attack.trigger(64, generator=generator())
    found = attack.success(site, trigger)
    second = attack.targets(trigger.tensors, FIRST)[1]
    assert not found.hits.any()
    assert len(found.hits) == (site.images.labels != second).sum()
    assert len(found.clusters) == len(found.hits)


def test_the_other_targets_can_be_named_but_not_the_victims_own():
    attack = MultiTarget(triggers="badnets,sig", others=" key ")
    kept = attack.trigger(32, generator=generator()).tensors
    assert attack.targets(kept, FIRST) == [FIRST, NAMES.index("key")]
    with pytest.raises(UsageError, match="key as target and in others"):
        attack.targets(kept, NAMES.index("key"))
