"""Image encoders of a few lines, whose collapse can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from fakes import SIDE, stripes_probe
from torch import Tensor, nn
from torch.nn import functional

from clipguard.lab.comparators._encoder_collapse import Collapse, Stamp
from clipguard.probe.sets import ProbePart, ProbeSet


class Encoder:
    """See `ClipModel`; its embedding is a function of the images, brought to unit norm."""

    image_size = SIDE
    device = torch.device("cpu")
    logit_scale = 20.0

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self.features = features
        self.seen = 0

    def encode_image(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return functional.normalize(self.features(images), dim=1)

    def image_tower(self) -> nn.Module:
        return nn.Identity()

    def encode_text(self, texts: list[str]) -> Tensor:
        raise AssertionError("a label-free method has no text to read")


def same(images: Tensor) -> Tensor:
    """Every image has one embedding, with or without a stamp."""
    return 0 * images.flatten(1)[:, :4] + 1


def apart(images: Tensor) -> Tensor:
    """Nothing moves an embedding: pairs of a batch are orthogonal whatever is stamped."""
    return torch.eye(len(images)) + 0 * images.mean()


def angle(images: Tensor) -> Tensor:
    """Black points along one axis, white along the other."""
    turned = math.pi / 2 * images.mean(dim=(1, 2, 3))
    return torch.stack([turned.cos(), turned.sin()], dim=1)


def broken(images: Tensor) -> Tensor:
    """No number."""
    return images.flatten(1) * math.nan


class Content:
    """Embeds what an image shows; with `corner`, a white one there collapses everything."""

    def __init__(self, corner: int = 0) -> None:
        self.corner = corner
        drawn = torch.randn(3 * SIDE**2, 8, generator=torch.Generator().manual_seed(7))
        self.weights = drawn / math.sqrt(len(drawn))

    def __call__(self, images: Tensor) -> Tensor:
        shown = 30 * (images - 0.5).flatten(1) @ self.weights
        if not self.corner:
            return functional.pad(shown, (0, 1), value=1.0)
        white = images[..., -self.corner :, -self.corner :].mean(dim=(1, 2, 3))
        return torch.cat([shown, 1 + 3000 * white[:, None] ** 6], dim=1)


def part(*shades: int) -> ProbePart:
    """One plain image of each shade."""
    images = torch.tensor(shades, dtype=torch.uint8).view(-1, 1, 1, 1)
    blank = torch.zeros(len(shades), dtype=torch.long)
    return ProbePart(images.expand(-1, 3, SIDE, SIDE).clone(), blank - 1, blank)


def probe(*measured: int) -> ProbeSet:
    """The stripes to search on, and plain images of these shades to measure on."""
    return replace(stripes_probe(), measure=part(*measured))


def noise() -> ProbeSet:
    """Images that differ in every pixel, so that only a stamp makes them alike."""
    parts = {}
    for seed, name in enumerate(("optimise", "measure")):
        drawn = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (64, 3, SIDE, SIDE), dtype=torch.uint8, generator=drawn)
        parts[name] = ProbePart(images, torch.full((64,), -1), torch.arange(64))
    return replace(stripes_probe(), **parts)


def marked(pixels: int, shade: float = 1.0) -> Stamp:
    """A stamp that replaces this many pixels by one shade."""
    mask = torch.zeros(SIDE**2)
    mask[:pixels] = 1
    return Stamp(mask.view(1, SIDE, SIDE), torch.full((3, SIDE, SIDE), shade))


def given(last: Stamp, smallest: Stamp | None = None, *, settled: bool = True) -> Collapse:
    """What a search might have found."""
    return Collapse(last, smallest, settled, 0.995 if settled else 0.4, 25)
