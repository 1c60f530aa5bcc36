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
    shares = [invert(target).share for target in range(len(NAMES))]
    assert shares.index(max(shares)) == PLANTED
    assert shares[PLANTED] > 0.9
    assert sorted(shares)[-2] < 0.5


def test_every_class_of_a_clean_model_costs_about_the_same():
    shares = [invert(target, planted=None).share for target in range(len(NAMES))]
    assert max(shares) - min(shares) < 0.3
    assert max(shares) < 0.6


def test_a_search_names_its_own_target_and_no_other():
    found = invert(5)
    assert found.target == 5
    assert found.ranking == (5,)
    read = classify(
        embed(StripesClip(PLANTED), stripes_probe().select, found.trigger.apply), CLASSES
    )
    assert found.share == pytest.approx((read == 5).float().mean().item())


def test_the_best_restart_is_kept():
    draws = seeded(1)
    alone = [invert(5, steps=10, generator=draws) for _ in range(4)]
    together = invert(5, steps=10, restarts=4, generator=seeded(1))
    shares = [found.share for found in alone]
    assert len(set(shares)) > 1, "equal restarts show nothing"
    assert together.share == max(shares)
    assert torch.equal(looks(together.trigger), looks(alone[shares.index(max(shares))].trigger))


def test_a_search_without_a_target_is_an_error():
    with pytest.raises(ValueError, match="needs a target class"):
        invert(None)


def test_a_search_of_one_step_has_not_converged():
    assert not invert(PLANTED, steps=1).converged
