"""Small opaque patches of free shape and place."""

import pytest
import torch
from fakes import generator

from clipguard.search.families.patch import Patch
from clipguard.search.roles import Trigger

SIDE = 64
TOLERANCE = 0.005  # the soft edge of a mask
SEARCHED = 10  # a search spreads the place logits about this much


def found(progress: float, seed: int = 0, spread: float = SEARCHED, **settings: float) -> Trigger:
    family = Patch(**settings)
    started = family.start(SIDE, generator=generator(seed))
    place = started["place"] / started["place"].std() * spread
    return family.trigger({"place": place, "pattern": started["pattern"]}, progress)


@pytest.mark.parametrize(("area", "seed"), [(0.01, 0), (0.03, 1), (0.06, 2)])
def test_the_final_mask_covers_its_area_and_no_more(area: float, seed: int):
    trigger = found(1.0, seed, area=area)
    assert area - TOLERANCE <= trigger.size <= area + TOLERANCE
    assert trigger.tensors["mask"].mean().item() == pytest.approx(trigger.size)


def test_no_place_parameters_can_buy_more_area_or_favour_a_place():
    family, pattern = Patch(area=0.02), torch.zeros(3, SIDE, SIDE)
    place = family.start(SIDE, generator=generator())["place"]
    for wild in (place / place.std() * 100 - 300, place / place.std() / 10, place + 300):
        mask = family.trigger({"place": wild, "pattern": pattern}, 1.0).tensors["mask"]
        assert (mask > 0.5).sum() <= 0.02 * SIDE**2 + 1
    level = torch.full((1, SIDE, SIDE), 5.0)
    mask = family.trigger({"place": level, "pattern": pattern}, 1.0).tensors["mask"]
    torch.testing.assert_close(mask, mask[:, :1, :1].expand_as(mask))


def test_the_mask_shrinks_to_its_final_area_and_is_then_left_alone():
    settings = {"area": 0.02, "first_area": 0.3, "settle": 0.5}
    sizes = [found(progress, **settings).size for progress in (0, 0.2, 0.4, 0.5, 0.8, 1)]
    assert sizes[0] > 0.25
    assert sizes[:4] == sorted(sizes[:4], reverse=True)
    assert sizes[3] == sizes[4] == sizes[5]


def test_outside_its_mask_a_patch_changes_nothing_and_inside_the_image_is_gone():
    trigger = found(1.0)
    images = torch.rand(2, 3, SIDE, SIDE, generator=generator())
    stamped, mask = trigger.apply(images), trigger.tensors["mask"][0]
    off, on = mask < 1e-4, mask > 0.999
    assert off.float().mean() > 0.95
    torch.testing.assert_close(stamped[..., off], images[..., off], atol=1e-3, rtol=0)
    assert on.float().mean() > 0.01
    torch.testing.assert_close(stamped[0][:, on], stamped[1][:, on], atol=2e-3, rtol=0)
