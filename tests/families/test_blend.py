"""A picture laid over the whole image, faintly."""

import pytest
import torch
from fakes import generator

from clipguard.families.blend import Blend

SIDE = 16


@pytest.mark.parametrize("opacity", [0.05, 0.2])
def test_the_result_is_that_share_of_the_picture(opacity: float):
    family = Blend(opacity=opacity)
    trigger = family.trigger(family.start(SIDE, generator=generator()), 1.0)
    images = torch.rand(3, 3, SIDE, SIDE, generator=generator(1))
    expected = (1 - opacity) * images + opacity * trigger.tensors["picture"]
    assert torch.allclose(trigger.apply(images), expected, atol=1e-6)
    assert (trigger.size, trigger.unit) == (opacity, "opacity")


@pytest.mark.parametrize("level", [-99.0, 99.0])
def test_pixels_stay_in_range(level: float):
    trigger = Blend().trigger({"picture": torch.full((3, SIDE, SIDE), level)}, 1.0)
    shown = trigger.apply(torch.rand(2, 3, SIDE, SIDE, generator=generator()))
    assert shown.min() >= 0
    assert shown.max() <= 1
