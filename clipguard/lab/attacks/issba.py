"""ISSBA-like: a hidden message, written into every image in a way of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.errors import UsageError
from clipguard.lab.roles import OptimisedAttack, Site
from clipguard.search.roles import Trigger

CELLS = 8  # a side; every cell of the image carries one bit
WIDTH = 24
LAYERS = {  # channels out and in, kernel; pixels enter as blocks, 2 by 2 and 4 by 4
    "encoder.1": (WIDTH, 3 * 4 + 1, 3),
    "encoder.2": (WIDTH, WIDTH, 3),
    "encoder.3": (3 * 4, WIDTH, 3),
    "decoder.1": (2 * WIDTH, 3 * 16, 3),
    "decoder.2": (2 * WIDTH, 2 * WIDTH, 3),
    "decoder.3": (1, 2 * WIDTH, 1),
}
LEARNING_RATE = 3e-3


@dataclass(frozen=True, kw_only=True)
class Issba:
    """A small network adds a faint residual that spells a secret message to another network.

    Both networks learn from clean images and random messages; the secret message is drawn from
    the seed. The residual differs from image to image, so no fixed pattern is the trigger.

    Attributes:
        bits: length of the message, 16 to 64; a bit stands in one or more of 8 by 8 cells.
        budget: L-inf bound of the residual, in 1/255.
        variety: weight of the mean squared cosine between residuals of different images that
            carry the same message; at 0 they become nearly one pattern.
        steps: Adam steps of the two networks.
        batch: images in a step, 2 or more.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Li et al., Invisible Backdoor Attack with Sample-Specific Triggers, ICCV 2021: the
        StegaStamp encoder with a message of 100 bits, error correction included; ASR 60.0 % on
        ViT-B/32 in RVPT. Neither encoder nor data are ours to ship, so this is another attack of
        the same kind (GUESS): networks, cells and losses are our own. Adapted: a hard bound
        instead of losses for how the image looks; bits are not corrected for errors; `variety`
        takes the place of a large network that learns to use the image; decoding is trained under
        rounding to 8 bits, not under print, blur or JPEG. Sides are multiples of 4 px.
    """

    ID: ClassVar[str] = "issba/1"

    bits: int = 32
    budget: float = 8.0
    variety: float = 1.0
    steps: int = 150
    batch: int = 16
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse messages that do not fit, residuals of nothing, and empty training."""
        if not 16 <= self.bits <= CELLS**2:
            raise UsageError(f"issba wants 16 to {CELLS**2} bits, got {self.bits}")
        if not 1 <= self.budget <= 255 or not self.variety >= 0:
            raise UsageError(
                f"issba wants a budget in [1, 255] and a variety of 0 or more; "
                f"got {self.budget} and {self.variety}"
            )
        if self.steps < 1 or self.batch < 2:
            raise UsageError(
                f"issba wants 1 step and 2 images or more; got {self.steps} and {self.batch}"
            )

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `OptimisedAttack.optimise`; weights of both networks, and `message` of 0 and 1."""
        weights = _start(generator)
        message = torch.randint(2, (self.bits,), generator=generator).float()
        optimizer = torch.optim.Adam(weights.values(), lr=LEARNING_RATE)
        for _ in range(self.steps):
            index = torch.randperm(len(site.images), generator=generator)[: self.batch]
            loss = self._loss(weights, site.images.pixels(index), generator)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return {name: value.detach() for name, value in weights.items()} | {"message": message}

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """See `OptimisedAttack.rebuild`."""

        def apply(images: Tensor) -> Tensor:
            kept = {name: value.to(images.device) for name, value in made.items()}
            return (images + self._residual(kept, images, kept["message"])).clamp(0, 1)

        return Trigger("issba", apply, self.budget, "L-inf, in 1/255", made)

    def _residual(self, made: Mapping[str, Tensor], images: Tensor, message: Tensor) -> Tensor:
        """(B, 3, S, S) within the budget, which spell the (bits,) message of 0 and 1."""
        signs = 2 * message[_bit_of_cell(len(message)).to(message.device)] - 1
        half = images.shape[-1] // 2
        cells = functional.interpolate(signs.view(1, 1, CELLS, CELLS), size=(half, half))
        blocks = functional.pixel_unshuffle(2 * images - 1, 2)
        seen = torch.cat([blocks, cells.expand(len(images), -1, -1, -1)], dim=1)
        drawn = functional.pixel_shuffle(_layers(made, "encoder", seen), 2)
        return self.budget / 255 * drawn.tanh()

    def _loss(
        self, weights: Mapping[str, Tensor], images: Tensor, generator: torch.Generator
    ) -> Tensor:
        """How badly a random message is read, and how alike it is written in all images."""
        message = torch.randint(2, (self.bits,), generator=generator).float()
        residual = self._residual(weights, images, message)
        shown = (images + residual).clamp(0, 1)
        # noise in place of rounding, through which there is no gradient
        shown = shown + (torch.rand(shown.shape, generator=generator) - 0.5) / 255
        wanted = message.expand(len(images), -1)
        read = functional.binary_cross_entropy_with_logits(
            recover(weights, shown, self.bits), wanted
        )
        rows = functional.normalize(residual.flatten(1), dim=1)
        alike = (rows @ rows.T).square()
        others = len(images) * (len(images) - 1)
        return read + self.variety * (alike.sum() - alike.diagonal().sum()) / others


def recover(made: Mapping[str, Tensor], images: Tensor, bits: int) -> Tensor:
    """Read the hidden message.

    Args:
        made: what `Issba.optimise` returned.
        images: (B, 3, S, S) in [0, 1].
        bits: length of the message.

    Returns:
        (B, bits) logits; above 0 for a bit that is 1.
    """
    # what differs from the surroundings: the message is faint, and most of an image is smooth
    fine = 10 * (images - functional.avg_pool2d(images, 3, 1, 1))
    found = _layers(made, "decoder", functional.pixel_unshuffle(fine, 4))
    cells = functional.adaptive_avg_pool2d(found, CELLS).flatten(1)
    bit = _bit_of_cell(bits).to(images.device)
    return cells.new_zeros(len(images), bits).index_add(1, bit, cells)


def _bit_of_cell(bits: int) -> Tensor:
    """(CELLS * CELLS,) which bit a cell carries; the first ones stand twice where there is room."""
    return torch.arange(CELLS**2) % bits


def _start(generator: torch.Generator) -> dict[str, Tensor]:
    """Random leaf parameters of both networks."""
    weights: dict[str, Tensor] = {}
    for name, (after, before, kernel) in LAYERS.items():
        drawn = torch.randn(after, before, kernel, kernel, generator=generator)
        weights[f"{name}.weight"] = drawn * math.sqrt(2 / (before * kernel**2))
        weights[f"{name}.bias"] = torch.zeros(after)
    return {name: value.requires_grad_() for name, value in weights.items()}


def _layers(made: Mapping[str, Tensor], network: str, images: Tensor) -> Tensor:
    """Three convolutions that keep the size, with ReLUs in between."""
    for layer in (1, 2, 3):
        weight, bias = (made[f"{network}.{layer}.{kind}"] for kind in ("weight", "bias"))
        images = functional.conv2d(
            images if layer == 1 else images.relu(), weight, bias, padding="same"
        )
    return images


METHOD: type[OptimisedAttack] = Issba
