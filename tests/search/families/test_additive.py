"""Faint patterns added to the whole image."""

import pytest
import torch
from fakes import generator

from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.search.families.additive import Additive

SIDE = 16


@pytest.mark.parametrize(("budget", "scale"), [(2.0, 1.0), (16.0, 1e3)])
def test_no_pixel_changes_by_more_than_the_budget(budget: float, scale: float):
    family, images = Additive(budget=budget), torch.rand(3, 3, SIDE, SIDE, generator=generator(1))
    noise = family.start(SIDE, generator=generator())["noise"] * scale
    for progress in (0.0, 0.5, 1.0):
        trigger = family.trigger({"noise": noise}, progress)
        assert (trigger.apply(images) - images).abs().max().item() <= budget / 255 + 1e-6
        assert trigger.size == pytest.approx(trigger.tensors["delta"].abs().max().item() * 255)
        assert trigger.size <= budget + 1e-4


def test_the_budget_holds_for_the_file_that_an_attacker_would_write():
    family = Additive(budget=8)
    trigger = family.trigger({"noise": torch.full((3, SIDE, SIDE), 99.0)}, 1.0)
    images = torch.randint(256, (2, 3, SIDE, SIDE), generator=generator(), dtype=torch.uint8)
    change = pixels_to_bytes(trigger.apply(pixels_from_bytes(images))).int() - images.int()
    assert change.abs().max() == 8
