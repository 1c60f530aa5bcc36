"""Patches that stand at another place in every image."""

from __future__ import annotations

import torch
from fakes import generator

from clipguard.search.families.moving_patch import MovingPatch

SIDE = 32


def shown(progress: float = 1.0, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each of `count` equal images was changed, and the mask at home."""
    family = MovingPatch(area=0.05)
    trigger = family.trigger(family.start(SIDE, generator=generator()), progress)
    grey = torch.full((count, 3, SIDE, SIDE), 0.5)
    return (trigger.apply(grey) - grey).abs().amax(dim=1), trigger.tensors["mask"][0]


def test_every_image_has_the_same_patch_elsewhere():
    changed, mask = shown()
    assert 0.03 < mask.mean() < 0.08
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 6
    spectra = torch.fft.fft2(changed).abs()  # a cyclic shift changes phases only
    torch.testing.assert_close(spectra, spectra[:1].expand_as(spectra), atol=1e-3, rtol=1e-3)


def test_the_final_trigger_is_a_function_of_its_batch_and_each_step_looks_elsewhere():
    assert torch.equal(shown()[0], shown()[0])
    early, later = shown(0.8)[0], shown(0.9)[0]  # the area is final at both
    assert not torch.equal(early, later)
