"""Augmented: strong distortions of images whose captions stay true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.errors import UsageError
from clipguard.lab.roles import Honest, Pairs, PairsNegative
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """Half of the images are faint, noisy, off in colour and have a part erased by noise.

    Attributes:
        share: of a batch that is distorted, in (0, 1].

    Source:
        Random erasing (Zhong et al., AAAI 2020), additive noise and colour shifts, as image
        towers are trained with; strengths are ours.
    """

    ID: ClassVar[str] = "augmented/1"

    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.share <= 1:
            raise UsageError(f"augmented wants a share in (0, 1], got {self.share}")

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """See `PairsNegative.altered`."""
        images, generator = pairs.images.clone(), about.generator
        count, side = pairs.part(self.share), images.shape[-1]
        gain = 0.6 + 0.8 * torch.rand(count, 3, 1, 1, generator=generator)
        noise = 0.08 * torch.randn(count, 3, side, side, generator=generator)
        images[:count] = (images[:count] * gain + noise).clamp(0, 1)
        length = side // 4
        for image in images[:count]:
            top, left = torch.randint(side - length + 1, (2,), generator=generator).tolist()
            erased = torch.rand(3, length, length, generator=generator)
            image[:, top : top + length, left : left + length] = erased
        return pairs._replace(images=pixels_from_bytes(pixels_to_bytes(images)))


METHOD: type[PairsNegative] = Augmented
