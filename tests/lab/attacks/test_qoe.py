"""QoE: where attention goes, how strong the pattern is, and what quality costs."""

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from skimage.metrics import structural_similarity
from torch import Tensor

from clipguard.lab.attacks._fitting import pull
from clipguard.lab.attacks.qoe import QoE, most_attended, ssim
from clipguard.search.roles import Trigger


def spot(top: int, left: int, side: int = 64, length: int = 9) -> Tensor:
    """(3, side, side) grey with a white square."""
    image = torch.full((3, side, side), 128 / 255)
    image[:, top : top + length, left : left + length] = 1
    return image


@pytest.mark.parametrize(("top", "left"), [(40, 10), (50, 50)])
def test_the_most_attended_region_moves_with_what_stands_out(top: int, left: int):
    (mask,) = most_attended(spot(top, left)[None], 0.1)[0]
    rows, columns = (mask.nonzero()[:, axis].float() for axis in (0, 1))
    # at a border, attention leans outwards by a few pixels
    assert rows.mean() == pytest.approx(top + 4, abs=4)
    assert columns.mean() == pytest.approx(left + 4, abs=4)


@pytest.mark.parametrize("area", [0.01, 0.5])
def test_every_image_gets_the_same_number_of_pixels_even_if_nothing_stands_out(area: float):
    images = torch.stack([spot(20, 20), torch.zeros(3, 64, 64), torch.ones(3, 64, 64)])
    counts = most_attended(images, area).sum(dim=(1, 2, 3))
    assert counts.tolist() == [round(area * 64**2)] * 3


def trigger(**settings: float) -> Trigger:
    pattern = torch.zeros(3, 64, 64)
    pattern[0] = 1
    return QoE(**settings).rebuild({"pattern": pattern}, 64)


def test_only_the_attended_pixels_change_by_the_opacity_of_the_pattern():
    images = nano_site().images.pixels(slice(0, 8))
    made = trigger(area=0.2, opacity=0.25)
    pattern = made.tensors["pattern"].expand_as(images)
    shown, mask = made.apply(images), most_attended(images, 0.2).expand_as(images) > 0
    assert torch.equal(shown[~mask], images[~mask])
    torch.testing.assert_close(shown[mask], (0.75 * images + 0.25 * pattern)[mask])
    assert made.size == 0.2


def test_ssim_is_that_of_the_paper():
    first, second = torch.rand(2, 3, 32, 32, generator=generator())
    second = 0.7 * first + 0.3 * second
    wanted = structural_similarity(
        *(first.numpy(), second.numpy()),
        channel_axis=0,
        data_range=1,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    assert ssim(first[None], second[None]).item() == pytest.approx(wanted, abs=1e-4)


def test_steps_pull_images_towards_the_target_and_quality_is_kept_for_its_price():
    site = nano_site()
    images = site.images.pixels(slice(0, 48))
    pulled, kept = {}, {}
    for steps, quality in ((1, 0.0), (30, 0.0), (30, 300.0)):
        attack = QoE(area=0.2, steps=steps, quality=quality)
        made = attack.rebuild(attack.optimise(site, generator=generator(1)), 64)
        with torch.no_grad():
            shown = made.apply(images)
            pulled[steps, quality] = pull(site)(shown).item()
            kept[steps, quality] = ssim(shown, images).mean().item()
    assert pulled[30, 0.0] < pulled[1, 0.0] - 0.3
    assert pulled[30, 0.0] < pulled[30, 300.0]
    assert kept[30, 300.0] > kept[30, 0.0] + 0.01
