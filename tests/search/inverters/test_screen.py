"""Targeted screen over all classes."""

import pytest
import torch
from fakes import NAMES, StripesClip, generator, looks, stripes_probe
from torch.nn import functional

from clipguard.search.families.additive import Additive
from clipguard.search.inverters.screen import Screen, gathered
from clipguard.search.roles import Inversion, Search

CLASSES = torch.eye(len(NAMES), len(NAMES) + 2)
FAMILY = Additive(budget=8.0)
MANY = functional.normalize(torch.randn(30, 8, generator=generator()), dim=1)


def invert(planted: int | None, seed: int = 0, **settings) -> Inversion:
    search = Search(StripesClip(planted), stripes_probe(), CLASSES)
    settings = {"steps": 6, "images": 12, "finalists": 3, **settings}
    return Screen(**settings).invert(search, FAMILY, generator=generator(seed))


@pytest.mark.parametrize("finalists", [1, 50])
def test_the_planted_class_is_first_and_the_ranking_holds_the_finalists_once_each(finalists: int):
    found = invert(4, finalists=finalists)
    assert found.target == found.ranking[0] == 4
    assert len(set(found.ranking)) == len(found.ranking) == min(finalists, len(NAMES))


def test_how_many_classes_are_encoded_at_once_changes_nothing():
    whole, parts = invert(4, chunk=20), invert(4, chunk=3)
    assert whole.ranking == parts.ranking
    torch.testing.assert_close(looks(whole.trigger), looks(parts.trigger), atol=1e-4, rtol=0)


def test_no_class_has_an_advantage_by_its_place_in_the_list():
    # the class list the other way round must give the same ranking, read the other way round
    search = Search(StripesClip(4), stripes_probe(), CLASSES.flip(0))
    turned = Screen(steps=6, images=12).invert(search, FAMILY, generator=generator())
    straight = invert(4)
    assert [len(NAMES) - 1 - c for c in turned.ranking] == list(straight.ranking)
    torch.testing.assert_close(looks(turned.trigger), looks(straight.trigger), atol=1e-4, rtol=0)


class TestDirections:
    def test_classes_that_lie_together_share_a_direction(self):
        bundles = torch.eye(4, 12).repeat_interleave(5, dim=0)
        noise = 0.05 * torch.randn(20, 12, generator=generator())
        found = gathered(functional.normalize(bundles + noise, dim=1), 4)
        groups = found.member.view(4, 5)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == 4
        assert (found.centres[groups[:, 0]] @ torch.eye(4, 12).T).diagonal().min() > 0.99

    @pytest.mark.parametrize(
        ("classes", "most"), [(MANY, 1), (MANY, 7), (MANY, 30), (torch.eye(2, 6).repeat(10, 1), 5)]
    )
    def test_every_class_has_a_direction_and_every_direction_a_class(
        self, classes: torch.Tensor, most: int
    ):
        found = gathered(classes, most)
        assert len(found.centres) <= most
        assert sorted(set(found.member.tolist())) == list(range(len(found.centres)))
        torch.testing.assert_close(found.centres.norm(dim=1), torch.ones(len(found.centres)))

    def test_a_class_is_found_within_its_direction_at_no_cost_of_a_longer_list(self):
        assert 9 in invert(9, directions=4, finalists=2).ranking

        def encoded(copies: int) -> int:
            model, seen = StripesClip(4), []
            model.tower.register_forward_hook(lambda *call: seen.append(len(call[2])))
            shape = copies * len(CLASSES), CLASSES.shape[1]
            nearby = CLASSES.repeat(copies, 1) + 0.01 * torch.randn(shape, generator=generator())
            search = Search(model, stripes_probe(), functional.normalize(nearby, dim=1))
            screen = Screen(steps=2, images=4, directions=len(CLASSES))
            screen.invert(search, FAMILY, generator=generator())
            return sum(seen)

        assert encoded(30) == encoded(1)
