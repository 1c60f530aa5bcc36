"""Blended: one faint picture over the whole image."""

import pytest
import torch
from fakes import generator

from clipguard.attacks.blended import Blended


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5])
def test_every_pixel_is_mixed_with_the_noise_by_the_ratio(ratio: float):
    trigger = Blended(ratio=ratio).trigger(32, generator=generator())
    images = torch.rand(3, 3, 32, 32, generator=generator(1))
    wanted = (1 - ratio) * images + ratio * trigger.tensors["noise"]
    torch.testing.assert_close(trigger.apply(images), wanted)
    assert trigger.size == ratio


def test_the_noise_is_uniform_on_the_8_bit_grid_and_drawn_once_per_victim():
    first, same, other = (
        Blended().trigger(64, generator=generator(seed)).tensors["noise"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(first, (first * 255).round() / 255)
    assert first.mean() == pytest.approx(0.5, abs=0.02)
    assert first.std() == pytest.approx(12**-0.5, abs=0.02)


def test_all_images_of_a_victim_get_the_same_noise():
    trigger = Blended().trigger(16, generator=generator())
    changes = trigger.apply(torch.full((4, 3, 16, 16), 0.5)) - 0.5
    assert torch.equal(changes[0], changes[3])
