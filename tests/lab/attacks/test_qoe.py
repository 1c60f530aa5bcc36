"""QoE: where attention goes, how strong the pattern is, and what quality costs."""

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.attacks._fitting import pull
from clipguard.lab.attacks.qoe import QoE, most_attended, qoe_attention, ssim
from clipguard.search.roles import Trigger


def spot(top: int, left: int, side: int = 64, length: int = 9) -> Tensor:
    """(3, side, side) grey with a white square."""
    image = torch.full((3, side, side), 128 / 255)
    image[:, top : top + length, left : left + length] = 1
    return image


def slow_attention(image: Tensor, centre: int, surround: int, spread: int) -> Tensor:
    """For one (1, S, S) grey image: windows cut out one by one, borders repeated."""

    def window(values: Tensor, row: int, column: int, width: int) -> float:
        side, reach = len(values), width // 2
        near = [range(at - reach, at + reach + 1) for at in (row, column)]
        rows, columns = ([min(max(i, 0), side - 1) for i in line] for line in near)
        return float(values[rows][:, columns].mean())

    side, levels = image.shape[-1], image[0] * 255
    contrast = torch.tensor(
        [
            [
                abs(window(levels, r, c, centre) - window(levels, r, c, surround))
                for c in range(side)
            ]
            for r in range(side)
        ]
    )
    rows = [[window(contrast, r, c, spread) for c in range(side)] for r in range(side)]
    return torch.tensor(rows)


def test_attention_is_the_contrast_with_the_surroundings_spread_out():
    grey = (torch.rand(1, 28, 28, generator=generator()) * 255).round() / 255
    found = qoe_attention(grey.expand(1, 3, -1, -1))[0]
    wanted = slow_attention(grey, centre=3, surround=7, spread=7)  # 16 and 48 px of 224, odd
    scale = 3 * (9 * 49) * 49  # three channels, areas of the windows
    torch.testing.assert_close((found / scale).float(), wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("top", "left"), [(4, 4), (40, 10), (50, 50)])
def test_the_most_attended_region_moves_with_what_stands_out(top: int, left: int):
    (mask,) = most_attended(spot(top, left)[None], 0.1)[0]
    rows, columns = (mask.nonzero()[:, axis].float() for axis in (0, 1))
    # at a border, attention leans outwards by a few pixels
    assert rows.mean() == pytest.approx(top + 4, abs=4)
    assert columns.mean() == pytest.approx(left + 4, abs=4)


def test_drawings_draw_more_attention_than_the_ground_around_them():
    part = nano_site().images
    images = part.pixels(slice(0, 100))
    inner = most_attended(images, 0.1)[:, :, 12:52, 12:52]  # 39 % of the image, where drawings are
    assert inner.sum() > 0.75 * 100 * round(0.1 * 64**2)


@pytest.mark.parametrize("area", [0.01, 0.1, 0.5, 1.0])
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
    assert made.unit == "share of the image"


def slow_ssim(first: Tensor, second: Tensor) -> float:
    """Window by window, 11 by 11 with a bell of deviation 1.5, over (3, S, S)."""
    bell = torch.tensor([2.718281828 ** (-((i - 5) ** 2) / 4.5) for i in range(11)])
    weights = bell[:, None] * bell / bell.sum() ** 2
    scores = []
    for channel in range(3):
        for row in range(first.shape[1] - 10):
            for column in range(first.shape[2] - 10):
                a, b = (x[channel, row : row + 11, column : column + 11] for x in (first, second))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (
                    (weights * (a - mean_a) ** 2).sum(),
                    (weights * (b - mean_b) ** 2).sum(),
                )
                both = (weights * (a - mean_a) * (b - mean_b)).sum()
                light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                scores.append(light * (2 * both + 9e-4) / (var_a + var_b + 9e-4))
    return float(sum(scores) / len(scores))


def test_ssim_is_that_of_the_paper():
    first, second = torch.rand(2, 2, 3, 15, 15, generator=generator())
    second = 0.7 * first + 0.3 * second
    wanted = torch.tensor([slow_ssim(a, b) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(ssim(first, second), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(ssim(first, first), torch.ones(2))


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


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"area": 0}, r"in \(0, 1\], got 0 and 0.5"),
        ({"opacity": 1.5}, "got 0.1 and 1.5"),
        ({"quality": -1}, "0 or more and at least one step, got -1 and 200"),
        ({"steps": 0}, "got 20.0 and 0"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float], told: str):
    with pytest.raises(UsageError, match=told):
        QoE(**wrong)
