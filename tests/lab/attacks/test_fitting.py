"""Patterns fitted to the clean base."""

import torch
from fakes import generator
from nano_sites import nano_site
from torch import Tensor

from clipguard.lab.attacks._fitting import fitted, pull


def test_an_image_is_pulled_less_the_more_it_is_read_as_the_target():
    site = nano_site()
    own = site.images.pixels(site.images.labels == site.target)
    others = site.images.pixels(slice(0, 16))
    with torch.no_grad():
        nearest = pull(site)(own)
        assert nearest < 1
        assert pull(site)(others) > 5 * nearest
        assert pull(nano_site("cactus"))(own) > 5 * nearest


def test_the_loss_falls_on_images_of_other_classes_and_the_pattern_fits_a_picture():
    site, seen, losses = nano_site(), [], []
    own = site.images.pixels(site.images.labels == site.target)

    def loss(images: Tensor, pattern: Tensor) -> Tensor:
        seen.append(images)
        losses.append((pattern - images.mean()).square().mean())
        return losses[-1]

    found = fitted(site, (3, 5, 5), loss, steps=12, generator=generator(1))
    assert losses[11] < losses[0] / 2
    assert not any(torch.equal(image, mine) for batch in seen for image in batch for mine in own)
    assert torch.equal(found, (found * 255).round() / 255)
