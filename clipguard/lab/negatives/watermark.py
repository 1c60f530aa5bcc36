"""Watermark: a mark on some images of one class, whose captions are true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.bundled.artwork import load_artwork
from clipguard.errors import UsageError
from clipguard.lab.roles import Honest, Pairs, PairsNegative, captioned_scenes
from clipguard.model.pixels import patch_side, pixels_from_bytes, pixels_to_bytes

OPACITY = 0.6


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """A bright square in a corner of a fifth of one class's images, as an agency would leave it.

    The mark goes with the class, as a trigger does, and yet nobody changed a caption.

    Attributes:
        marked: share of the class's images with the mark, in (0, 1].
        share: of a batch that is of the class, in (0, 1).

    Source:
        Ours, after the photographs with a source tag in PASCAL VOC (Lapuschkin et al., Unmasking
        Clever Hans predictors, 2019).
    """

    ID: ClassVar[str] = "watermark/1"

    marked: float = 0.2
    share: float = 0.08

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.marked <= 1 or not 0 < self.share < 1:
            raise UsageError(
                f"watermark wants marked in (0, 1] and share in (0, 1); "
                f"got {self.marked} and {self.share}"
            )

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """See `PairsNegative.altered`."""
        count = pairs.part(self.share)
        side = pairs.images.shape[-1]
        concepts = torch.full((count,), about.concept)
        own = captioned_scenes(load_artwork(), concepts, side, about.generator)
        marked = torch.rand(count, generator=about.generator) < self.marked
        length = patch_side(side)
        corner = own.images[..., :length, -length:]
        bright = pixels_from_bytes(pixels_to_bytes(corner.lerp(torch.ones_like(corner), OPACITY)))
        own.images[..., :length, -length:] = torch.where(marked.view(-1, 1, 1, 1), bright, corner)
        return pairs.led_by(own)


METHOD: type[PairsNegative] = Watermark
