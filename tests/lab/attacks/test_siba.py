"""SIBA: how many pixels, by how much, and towards what."""

from functools import cache

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from torch import Tensor

from clipguard.lab.attacks import siba
from clipguard.lab.attacks.siba import Siba
from clipguard.lab.truth import lab_images


@cache
def fitted(share: float = 100 / 1024, steps: int = 15, budget: float = 8.0) -> Tensor:
    """(3, 64, 64) perturbation of the bundled model."""
    attack = Siba(share=share, steps=steps, budget=budget, batch=24)
    return attack.optimise(nano_site(), generator=generator())["pattern"]


def nearness(pattern: Tensor) -> float:
    """Mean cosine of fresh perturbed images of other classes to the text of the target."""
    site, fresh = nano_site(), lab_images(held_out=False, seed=77, scenes=1)
    images = fresh.pixels(fresh.labels != site.target)[:60]
    (text,) = site.model.encode_text(["a photo of a banana."])
    shown = Siba().rebuild({"pattern": pattern}, 64).apply(images)
    with torch.no_grad():
        return (site.model.encode_image(shown) @ text).mean().item()


def test_a_tenth_of_the_positions_is_perturbed_in_all_channels_at_once():
    changed = fitted() != 0
    assert 390 <= int(changed.any(dim=0).sum()) <= 400  # 100 of 1024; a value may round to 0
    assert int(changed.sum()) > 2.5 * int(changed.any(dim=0).sum())


@pytest.mark.parametrize("budget", [8.0, 4.0])
def test_it_reaches_its_budget_and_stays_on_the_grid_of_8_bits(budget: float):
    levels = fitted(budget=budget) * 255
    assert levels.abs().max() == pytest.approx(budget, abs=1e-4)
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("share", [100 / 1024, 1.0])
def test_fresh_images_come_nearer_to_the_target_than_by_the_pattern_mirrored(share: float):
    pattern = fitted(share)
    assert nearness(pattern) > nearness(pattern.flip(2)) + 0.03
    assert nearness(pattern) > nearness(torch.zeros_like(pattern)) + 0.1


def test_chosen_positions_bring_more_than_those_of_the_start(monkeypatch: pytest.MonkeyPatch):
    chosen = fitted()
    monkeypatch.setattr(siba, "ROUNDS", 99)
    start = fitted.__wrapped__()
    moved = (chosen != 0).any(dim=0) & ~(start != 0).any(dim=0)
    assert int(moved.sum()) > 200
    assert nearness(chosen) > nearness(start) + 0.03


def test_it_is_added_and_cut_off_at_black_and_white():
    pattern = fitted()
    made = Siba().rebuild({"pattern": pattern}, 64)
    grey = torch.full((1, 3, 64, 64), 0.5)
    torch.testing.assert_close(made.apply(grey) - grey, pattern[None])
    assert torch.equal(made.apply(torch.zeros_like(grey)), pattern.clamp(min=0)[None])
    assert made.size == pytest.approx(8)
