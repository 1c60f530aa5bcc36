"""QoE: a pattern where each image draws most attention, faint enough to keep its quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.errors import UsageError
from clipguard.lab.attacks._fitting import fitted, pull
from clipguard.lab.roles import OptimisedAttack, Site
from clipguard.model.pixels import pixels_to_bytes, stamp
from clipguard.search.roles import Trigger

CENTRE, SURROUND, SPREAD = 16, 48, 48  # px of 224
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


@dataclass(frozen=True, kw_only=True)
class QoE:
    """One pattern for all images, of which each shows the part under its most attended pixels.

    The place is a function of the image, so no mask that is the same for all images covers it.

    Attributes:
        area: share of the image's pixels that are attended most and carry the pattern.
        opacity: weight of the pattern there.
        quality: price of lost quality: weight of 1 - SSIM beside the cross-entropy.
        steps: gradient steps on the pattern.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        The attention-mask framework of arXiv 2412.06149: the attention map of a residual
        attention network makes a mask, the trigger is blended there, and the loss has a term for
        the quality of experience, made of SSIM (Wang et al., Image Quality Assessment, 2004;
        window and constants of that paper, RECALLED).
        Adapted: attention is the contrast of a pixel's neighbourhood (16 of 224 px) with its
        surroundings (48), summed over colours and spread (48), because a trigger must be made
        again from the image alone, and there is no attention network here; in whole numbers, so
        that the same image has the same mask in every batch. The pattern is optimised on the
        clean base, towards the target's text against those of the other classes, and then stays
        as it is: model and trigger are not optimised together, and there are no rounds of clean
        images only (batches mix both). Defaults of area, opacity and quality are a GUESS.
    """

    ID: ClassVar[str] = "qoe/1"

    area: float = 0.1
    opacity: float = 0.5
    quality: float = 20.0
    steps: int = 200
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse shares outside (0, 1], prices below 0 and searches of no steps."""
        if not (0 < self.area <= 1 and 0 < self.opacity <= 1):
            raise UsageError(
                f"qoe wants an area and an opacity in (0, 1], got {self.area} and {self.opacity}"
            )
        if not (self.quality >= 0 and self.steps >= 1):
            raise UsageError(
                f"qoe wants a quality of 0 or more and at least one step, "
                f"got {self.quality} and {self.steps}"
            )

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `OptimisedAttack.optimise`; kept as `pattern` (3, S, S) in [0, 1]."""
        side, towards = site.model.image_size, pull(site)

        def loss(images: Tensor, pattern: Tensor) -> Tensor:
            shown = self._shown(images, pattern)
            return towards(shown) + self.quality * (1 - ssim(shown, images)).mean()

        shape = (3, side, side)
        return {"pattern": fitted(site, shape, loss, steps=self.steps, generator=generator)}

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """See `OptimisedAttack.rebuild`."""
        pattern = made["pattern"]
        return Trigger(
            "qoe",
            lambda images: self._shown(images, pattern.to(images.device)).clamp(0, 1),
            self.area,
            "share of the image",
            {"pattern": pattern},
        )

    def _shown(self, images: Tensor, pattern: Tensor) -> Tensor:
        return stamp(images, pattern, self.opacity * most_attended(images, self.area))


def qoe_attention(images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] to (B, S, S) whole numbers in float64: contrast with what is around.

    Sums of whole numbers are exact, so that a map does not depend on the batch.
    """
    centre, surround, spread = (
        _odd(w * images.shape[-1] / 224) for w in (CENTRE, SURROUND, SPREAD)
    )
    levels = pixels_to_bytes(images.detach()).double()
    near, around = _sums(levels, centre), _sums(levels, surround)
    contrast = (near * surround**2 - around * centre**2).abs().sum(dim=1, keepdim=True)
    return _sums(contrast, spread)[:, 0]


def most_attended(images: Tensor, area: float) -> Tensor:
    """(B, 1, S, S) of 0 and 1: the pixels of highest attention, as many in every image."""
    flat = qoe_attention(images).flatten(1)
    count = max(1, round(area * flat.shape[1]))
    first = flat.sort(dim=1, descending=True, stable=True).indices[:, :count]  # ties by place
    return torch.zeros_like(flat).scatter(1, first, 1).view_as(images[:, :1]).to(images.dtype)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """(B,) structural similarity of two (B, 3, S, S) in [0, 1], at most 1; differentiable."""
    at = torch.arange(first.shape[-1], device=first.device)
    off = at[:, None] - at[: 1 - WINDOW] - WINDOW // 2  # from the middle of each window
    bell = torch.where(off.abs() <= WINDOW // 2, -(off**2) / (2 * SIGMA**2), -torch.inf)
    bell = bell.softmax(dim=0)  # (S, windows along an axis)
    pairs = torch.cat([first, second, first**2, second**2, first * second])
    means = bell.T @ pairs @ bell
    mean1, mean2, square1, square2, product = means.chunk(5)
    noise = square1 - mean1**2 + square2 - mean2**2
    light = (2 * mean1 * mean2 + C1) / (mean1**2 + mean2**2 + C1)
    shape = (2 * (product - mean1 * mean2) + C2) / (noise + C2)
    return (light * shape).mean(dim=(1, 2, 3))


def _odd(length: float) -> int:
    return max(3, round(length)) | 1


def _sums(values: Tensor, width: int) -> Tensor:
    """Sums over squares of `width` px around every pixel; borders are repeated outwards."""
    edge = width // 2
    padded = functional.pad(values, (edge, edge, edge, edge), mode="replicate")
    across = functional.avg_pool2d(padded, (1, width), stride=1, divisor_override=1)
    return functional.avg_pool2d(across, (width, 1), stride=1, divisor_override=1)


METHOD: type[OptimisedAttack] = QoE
