"""Targeted screen over all classes."""

import pytest
import torch
from fakes import NAMES, StripesClip, generator, looks, stripes_probe

from clipguard.inverters.screen import Screen
from clipguard.methods import FAMILIES
from clipguard.types import Inversion, Search

CLASSES = torch.eye(len(NAMES), len(NAMES) + 2)


def invert(planted: int | None, seed: int = 0, **settings) -> Inversion:
    search = Search(StripesClip(planted), stripes_probe(), CLASSES)
    family = FAMILIES.build("additive", {"budget": 8.0})
    settings = {"steps": 6, "images": 12, "finalists": 3, **settings}
    return Screen(**settings).invert(search, family, generator=generator(seed))


@pytest.mark.parametrize("planted", [0, 4, 9])
def test_the_planted_class_yields_first(planted: int):
    found = invert(planted)
    assert found.target == found.ranking[0] == planted
    assert found.share > 0.9


@pytest.mark.parametrize("finalists", [1, 3, 10, 50])
def test_the_ranking_holds_the_finalists_once_each(finalists: int):
    ranking = invert(4, finalists=finalists).ranking
    assert len(ranking) == len(set(ranking)) == min(finalists, len(NAMES))


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_how_many_classes_are_encoded_at_once_changes_nothing(chunk: int):
    whole, parts = invert(4, chunk=20), invert(4, chunk=chunk)
    assert whole.ranking == parts.ranking
    torch.testing.assert_close(looks(whole.trigger), looks(parts.trigger), atol=1e-4, rtol=0)


def test_no_class_has_an_advantage_by_its_place_in_the_list():
    # the class list the other way round must give the same ranking, read the other way round
    search = Search(StripesClip(4), stripes_probe(), CLASSES.flip(0))
    family = FAMILIES.build("additive", {"budget": 8.0})
    turned = Screen(steps=6, images=12).invert(search, family, generator=generator())
    straight = invert(4)
    assert [len(NAMES) - 1 - c for c in turned.ranking] == list(straight.ranking)
    torch.testing.assert_close(looks(turned.trigger), looks(straight.trigger), atol=1e-4, rtol=0)
