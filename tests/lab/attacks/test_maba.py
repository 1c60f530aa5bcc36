"""MABA: where the patch goes, and what it has to hold against."""

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from torch import Tensor
from torch.nn import functional

from clipguard.lab.attacks._fitting import pull
from clipguard.lab.attacks.maba import Maba, _place, attribution, restyled
from clipguard.lab.roles import Site
from clipguard.probe.sets import ProbePart


class Looker:
    """Reads one pixel: class 0 where its red is high, class 1 where it is low."""

    image_size = 64
    device = torch.device("cpu")
    logit_scale = 1.0

    def encode_image(self, images: Tensor) -> Tensor:
        red = images[:, 0, 10, 50]
        return torch.stack([red, 1 - red], dim=1)

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.eye(2)[: len(texts)]


def test_attribution_is_the_gradient_times_the_input_of_the_true_class():
    pixels = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    pixels[:, 0, 10, 50] = torch.tensor([51, 102, 255], dtype=torch.uint8)
    part = ProbePart(pixels, torch.tensor([0, 1, 0]), torch.arange(3))
    found = attribution(Site(Looker(), part, ("high", "low"), 1))
    wanted = torch.zeros(64, 64)
    wanted[10, 50] = 0.2 + 0.4 + 1.0  # of slope 1, -1 and 1
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("extreme", ["highest", "lowest"])
def test_the_patch_goes_to_the_square_with_the_extreme_sum(extreme: str):
    scores = torch.rand(20, 20, generator=generator())
    sums = {
        (top, left): float(scores[top : top + 8, left : left + 8].sum())
        for top in range(13)
        for left in range(13)
    }
    wanted = (max if extreme == "highest" else min)(sums, key=sums.__getitem__)
    assert tuple(_place(scores, 8, extreme).tolist()) == wanted


def test_styles_are_the_image_shifted_colours_grey_inverted_and_blurred():
    image = nano_site().images.pixels(slice(0, 1))
    many = restyled(image.expand(400, -1, -1, -1), generator=generator(3))
    fixed = {
        "itself": image,
        "grey": image.mean(dim=1, keepdim=True).expand_as(image),
        "inverted": 1 - image,
        "blurred": functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False),
    }
    counts = {name: int((many == look).all(dim=(1, 2, 3)).sum()) for name, look in fixed.items()}
    assert all(50 < count < 110 for count in counts.values())  # 80 of each, the rest shifted
    assert sum(counts.values()) < 350


def test_steps_pull_images_of_every_style_towards_the_target():
    site = nano_site()
    images = site.images.pixels(slice(0, 96))
    styled = restyled(images, generator=generator(8))
    pulled = []
    for steps in (1, 40):
        attack = Maba(steps=steps)
        made = attack.rebuild(attack.optimise(site, generator=generator(1)), 64)
        with torch.no_grad():
            pulled.append([pull(site)(made.apply(each)).item() for each in (images, styled)])
    assert pulled[1][0] < pulled[0][0] - 0.2
    assert pulled[1][1] < pulled[0][1] - 0.2


def test_the_place_does_not_depend_on_the_seed_but_on_the_setting():
    site = nano_site()
    places = [
        Maba(steps=1, place=place).optimise(site, generator=generator(seed))["place"].tolist()
        for place, seed in (("highest", 1), ("highest", 2), ("lowest", 1))
    ]
    assert places[0] == places[1] != places[2]
