"""Triggers to repair against: which are searched, and which are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import StripesClip, generator, no_progress, stripes_probe
from torch import Tensor

from clipguard.purify.inversions import Choice, fresh_triggers, inverted
from clipguard.search.families.additive import Additive
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.roles import Inversion, Search, Trigger, TriggerFamily
from clipguard.search.starts.place import Place

PLACES = tuple(Place(row=row, column=column) for row in (0, 2, 4) for column in (0, 2, 4))
CLASSES = torch.eye(3)


class CornerClip(StripesClip):
    """Reads class 1 where the lower right corner is bright, else class 0."""

    def encode_image(self, images: Tensor) -> Tensor:
        bright = images[..., -2:, -2:].mean(dim=(1, 2, 3)) - 0.7
        rows = torch.stack([-bright, bright, 0.1 + 0 * bright], dim=1)
        return torch.nn.functional.normalize(rows, dim=1)


def search() -> Search:
    return Search(CornerClip(), stripes_probe(), CLASSES, 1)


def test_a_choice_looks_at_all_and_keeps_the_best():
    choice = Choice(families=PLACES)
    assert choice.best(search(), generator=generator()) == [Place(row=4, column=4)]
    most = replace(choice, keep=3).best(search(), generator=generator())
    assert (len(most), most[0]) == (3, Place(row=4, column=4))
    (found,) = inverted(search(), choice, Targeted(steps=80), generator=generator())
    assert found.share == 1.0
    with pytest.raises(ValueError, match="target"):
        choice.best(replace(search(), target=None), generator=generator())


def test_a_choice_may_look_at_some_of_them_drawn_anew_each_time():
    choice = Choice(families=PLACES, most=2, keep=9)
    draws = generator()
    looks = [frozenset(choice.best(search(), generator=draws)) for _ in range(8)]
    assert {len(look) for look in looks} == {2}
    assert len(set(looks)) > 2


class Shares:
    """An inverter whose triggers move as many images as their budget says."""

    ID = "shares/1"

    def invert(
        self, search: Search, family: TriggerFamily, *, generator: torch.Generator
    ) -> Inversion:
        assert isinstance(family, Additive)
        trigger = Trigger("additive", lambda images: images, family.budget, "", {})
        return Inversion(trigger, 1, family.budget / 100, True, True, (1,))


@pytest.mark.parametrize(
    ("budgets", "kept"),
    [((90.0, 44.0, 46.0), [90, 46]), ((30.0, 16.0, 10.0), [30, 16]), ((0.0, 0.0), [0, 0])],
)
def test_what_moves_far_fewer_images_than_the_best_is_left_out(
    budgets: tuple[float, ...], kept: list[int]
):
    wanted = [Additive(budget=budget) for budget in budgets]
    found = fresh_triggers(search(), wanted, Shares(), generator=generator(), progress=no_progress)
    assert [round(one.size) for one in found] == kept
