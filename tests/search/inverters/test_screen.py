"""Targeted screen over all classes."""

import pytest
import torch
from fakes import NAMES, StripesClip, generator, looks, stripes_probe

from clipguard.search.families import FAMILIES
from clipguard.search.inverters.screen import Screen, gathered
from clipguard.search.roles import Inversion, Search

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


class TestDirections:
    def test_a_short_list_is_left_as_it_is(self):
        found = gathered(CLASSES, len(CLASSES))
        assert torch.equal(found.centres, CLASSES)
        assert found.member.tolist() == list(range(len(CLASSES)))

    def test_classes_that_lie_together_share_a_direction(self):
        bundles = torch.eye(4, 12).repeat_interleave(5, dim=0)
        noise = 0.05 * torch.randn(20, 12, generator=generator())
        found = gathered(torch.nn.functional.normalize(bundles + noise, dim=1), 4)
        groups = found.member.view(4, 5)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == 4
        assert (found.centres[groups[:, 0]] @ torch.eye(4, 12).T).diagonal().min() > 0.99

    @pytest.mark.parametrize("most", [1, 3, 7, 30])
    def test_every_class_has_a_direction_and_every_direction_a_class(self, most: int):
        classes = torch.nn.functional.normalize(torch.randn(30, 8, generator=generator()), dim=1)
        found = gathered(classes, most)
        assert len(found.centres) <= most
        assert sorted(set(found.member.tolist())) == list(range(len(found.centres)))
        torch.testing.assert_close(found.centres.norm(dim=1), torch.ones(len(found.centres)))

    def test_equal_classes_do_not_make_empty_directions(self):
        found = gathered(torch.eye(2, 6).repeat(10, 1), 5)
        assert sorted(set(found.member.tolist())) == list(range(len(found.centres))) == [0, 1]

    @pytest.mark.parametrize("planted", [0, 4, 9])
    def test_a_class_is_found_within_its_direction(self, planted: int):
        found = invert(planted, directions=4, finalists=2)
        assert planted in found.ranking

    def test_a_longer_list_costs_no_more_images(self):
        def encoded(copies: int) -> int:
            seen: list[int] = []

            class Counted(StripesClip):
                def encode_image(self, images: torch.Tensor) -> torch.Tensor:
                    seen.append(len(images))
                    return super().encode_image(images)

            nearby = CLASSES.repeat(copies, 1) + 0.01 * torch.randn(
                copies * len(CLASSES), CLASSES.shape[1], generator=generator()
            )
            classes = torch.nn.functional.normalize(nearby, dim=1)
            search = Search(Counted(4), stripes_probe(), classes)
            family = FAMILIES.build("additive", {"budget": 8.0})
            screen = Screen(steps=2, images=4, directions=len(CLASSES))
            screen.invert(search, family, generator=generator())
            return sum(seen)

        assert encoded(30) == encoded(1)
