"""Class-agnostic search."""

import pytest
import torch
from fakes import NAMES, StripesClip, looks, stripes_probe
from fakes import generator as seeded

from clipguard.probe.rates import classify, embed
from clipguard.search.families import FAMILIES
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.roles import Inversion, Search

CLASSES = torch.eye(len(NAMES), len(NAMES) + 2)


def invert(
    planted: int | None,
    target: int | None = None,
    generator: torch.Generator | None = None,
    **settings,
) -> Inversion:
    search = Search(StripesClip(planted), stripes_probe(), CLASSES, target)
    family = FAMILIES.build("additive", {"budget": 8.0})
    settings = {"steps": 60, "batch": 40, "restarts": 1, **settings}
    return Collapse(**settings).invert(search, family, generator=generator or seeded(0))


def test_the_planted_target_draws_the_images_without_being_named():
    found, aimed = invert(3), invert(3, target=7)
    assert found.target == found.ranking[0] == 3
    assert found.share > 0.9
    assert torch.equal(looks(found.trigger), looks(aimed.trigger))  # the target is not asked
    assert (found.converged, invert(3, steps=1).converged) == (True, False)


def test_the_share_is_that_of_the_returned_trigger_on_the_select_part():
    found = invert(None, restarts=2)
    read = classify(embed(StripesClip(), stripes_probe().select, found.trigger.apply), CLASSES)
    assert found.share == pytest.approx((read == found.target).float().mean().item())
    assert found.share < 0.5
    assert len(set(found.ranking)) == len(found.ranking) <= 10


def test_the_best_restart_is_kept_and_all_of_them_rank():
    draws = seeded(1)
    alone = [invert(None, generator=draws) for _ in range(4)]
    together = invert(None, restarts=4, generator=seeded(1))
    shares = [found.share for found in alone]
    assert shares[0] < max(shares), "the first restart must not be the best, or this shows nothing"
    assert shares[-1] < max(shares)
    assert together.share == max(shares)
    assert torch.equal(looks(together.trigger), looks(alone[shares.index(max(shares))].trigger))
    assert {found.target for found in alone} <= set(together.ranking)
