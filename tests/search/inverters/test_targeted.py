"""Targeted search."""

import pytest
import torch
from fakes import NAMES, StripesClip, looks, stripes_probe
from fakes import generator as seeded

from clipguard.probe.rates import classify, embed
from clipguard.search.families import FAMILIES
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.roles import Inversion, Search

CLASSES = torch.eye(len(NAMES), len(NAMES) + 2)
PLANTED = 3


def invert(
    target: int | None,
    planted: int | None = PLANTED,
    generator: torch.Generator | None = None,
    **settings,
) -> Inversion:
    search = Search(StripesClip(planted), stripes_probe(), CLASSES, target)
    family = FAMILIES.build("additive", {"budget": 8.0})
    settings = {"steps": 60, "batch": 40, "restarts": 1, **settings}
    return Targeted(**settings).invert(search, family, generator=generator or seeded(0))


def test_only_the_planted_class_can_be_reached_from_everywhere():
    planted, clean = (
        [invert(target, planted=model).share for target in range(len(NAMES))]
        for model in (PLANTED, None)
    )
    assert planted.index(max(planted)) == PLANTED
    assert planted[PLANTED] > 0.9
    assert sorted(planted)[-2] < 0.5
    assert max(clean) < min(0.6, min(clean) + 0.3)  # every class costs about the same


def test_a_search_names_its_own_target_and_no_other():
    found = invert(5)
    assert (found.target, found.ranking) == (5, (5,))
    features = embed(StripesClip(PLANTED), stripes_probe().select, found.trigger.apply)
    share = (classify(features, CLASSES) == 5).float().mean().item()
    assert found.share == pytest.approx(share)
    assert not invert(PLANTED, steps=1).converged
    with pytest.raises(ValueError, match="needs a target class"):
        invert(None)


def test_the_best_restart_is_kept():
    draws = seeded(1)
    alone = [invert(5, steps=10, generator=draws) for _ in range(4)]
    together = invert(5, steps=10, restarts=4, generator=seeded(1))
    shares = [found.share for found in alone]
    assert len(set(shares)) > 1, "equal restarts show nothing"
    assert together.share == max(shares)
    assert torch.equal(looks(together.trigger), looks(alone[shares.index(max(shares))].trigger))
