"""Faint patterns added to the whole image."""

import pytest
import torch
from fakes import generator

from clipguard.model.pixels import from_bytes, to_bytes
from clipguard.search.families.additive import Additive

SIDE = 16


@pytest.mark.parametrize("budget", [2.0, 8.0, 16.0])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_no_pixel_changes_by_more_than_the_budget(budget: float, scale: float):
    family = Additive(budget=budget)
    parameters = family.start(SIDE, generator=generator())
    for progress in (0.0, 0.5, 1.0):
        trigger = family.trigger({"noise": parameters["noise"] * scale}, progress)
        images = torch.rand(3, 3, SIDE, SIDE, generator=generator(1))
        change = (trigger.apply(images) - images).abs().max().item()
        assert change <= budget / 255 + 1e-6
        assert trigger.size <= budget + 1e-4


def test_the_budget_holds_for_the_file_that_an_attacker_would_write():
    family = Additive(budget=8)
    trigger = family.trigger({"noise": torch.full((3, SIDE, SIDE), 99.0)}, 1.0)
    images = torch.randint(256, (2, 3, SIDE, SIDE), generator=generator(), dtype=torch.uint8)
    change = to_bytes(trigger.apply(from_bytes(images))).int() - images.int()
    assert change.abs().max() == 8


def test_the_size_is_that_of_the_largest_change():
    family = Additive(budget=8)
    trigger = family.trigger(family.start(SIDE, generator=generator()), 1.0)
    assert trigger.size == pytest.approx(trigger.tensors["delta"].abs().max().item() * 255)
    assert trigger.unit == "L-inf, in 1/255"
    assert not trigger.tensors["delta"].requires_grad


def test_black_and_white_pixels_stay_in_range():
    trigger = Additive().trigger({"noise": torch.tensor([-9.0, 9.0]).repeat(3, 4, 2)}, 1.0)
    for level in (0.0, 1.0):
        shown = trigger.apply(torch.full((1, 3, 4, 4), level))
        assert shown.min() >= 0
        assert shown.max() <= 1
