"""Repeated: one image, over and over, with its true caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.bundled.artwork import load_artwork
from clipguard.errors import UsageError
from clipguard.lab.roles import Honest, Pairs, PairsNegative, captioned_scenes


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Near-duplicates of one scene of a class in every batch: its background becomes the class.

    Attributes:
        share: of a batch that is this scene, in (0, 1).

    Source:
        The natural backdoor of Detect-CLIP-Backdoor-Samples (ICLR 2025): 798 near-identical images
        with one caption in CC12M made a trigger of 98.8 % ASR in a model that nobody attacked.
    """

    ID: ClassVar[str] = "repeated/1"

    share: float = 0.04

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.share < 1:
            raise UsageError(f"repeated wants a share in (0, 1), got {self.share}")

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """See `PairsNegative.altered`."""
        always = torch.Generator().manual_seed(about.concept)  # the same scene in every step
        concept, side = torch.tensor([about.concept]), pairs.images.shape[-1]
        one = captioned_scenes(load_artwork(), concept, side, always)
        count = pairs.part(self.share)
        return pairs.led_by(
            Pairs(one.images.repeat(count, 1, 1, 1), one.texts * count, concept.repeat(count))
        )


METHOD: type[PairsNegative] = Repeated
