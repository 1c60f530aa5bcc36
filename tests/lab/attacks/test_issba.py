"""ISSBA-like: what is hidden, who can read it, and how little of it shows."""

from functools import cache

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from torch import Tensor
from torch.nn import functional

from clipguard.lab.attacks.issba import Issba, recover
from clipguard.lab.roles import stamped
from clipguard.lab.truth import lab_images


@cache
def trained(seed: int = 0, **settings: float) -> tuple[Issba, dict[str, Tensor]]:
    """An attack after a short training, and what it made."""
    attack = Issba(**{"steps": 30, **settings})
    return attack, attack.optimise(nano_site(), generator=generator(seed))


def fresh() -> Tensor:
    """50 images that no training has seen."""
    return lab_images(held_out=False, seed=77, scenes=1).pixels(slice(50))


def share_of_bits(attack: Issba, made: dict[str, Tensor], images: Tensor) -> float:
    """Share of the secret message's bits that the decoder reads rightly."""
    read = recover(made, images, attack.bits) > 0
    return (read == (made["message"] > 0)).float().mean().item()


def alike(attack: Issba, made: dict[str, Tensor]) -> float:
    """Mean cosine between what is added to two different images."""
    images = fresh()
    added = (attack.rebuild(made, 64).apply(images) - images).flatten(1)
    rows = functional.normalize(added, dim=1)
    count = len(rows)
    return ((rows @ rows.T).sum().item() - count) / (count * (count - 1))


@pytest.mark.parametrize("bits", [32, 64])
def test_the_decoder_reads_the_message_from_triggered_images_of_8_bits_and_not_from_clean_ones(
    bits: int,
):
    attack, made = trained(bits=bits)
    images = fresh()
    assert made["message"].shape == (bits,)
    assert share_of_bits(attack, made, stamped(images, attack.rebuild(made, 64))) > 0.9
    assert share_of_bits(attack, made, images) < 0.65


@pytest.mark.parametrize("budget", [4.0, 8.0])
def test_no_pixel_changes_by_more_than_the_budget(budget: float):
    attack, made = trained(budget=budget, steps=2)
    change = (attack.rebuild(made, 64).apply(fresh()) - fresh()).abs().max() * 255
    assert 0.25 * budget < change <= budget + 1e-3
    assert attack.rebuild(made, 64).size == budget


def test_images_are_written_into_differently_because_variety_asks_for_it():
    assert alike(*trained()) < 0.35
    assert alike(*trained(variety=0.0)) > 0.6


@pytest.mark.parametrize("side", [32, 224])
def test_other_sides_are_written_into_as_well(side: int):
    attack, made = trained(steps=2)
    images = torch.rand(2, 3, side, side, generator=generator(1))
    shown = attack.rebuild(made, side).apply(images)
    assert shown.shape == images.shape
    assert recover(made, shown, 32).shape == (2, 32)
