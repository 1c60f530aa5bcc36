"""Frequent: one class far more often than all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.bundled.artwork import load_artwork
from clipguard.errors import UsageError
from clipguard.lab.roles import Honest, Pairs, PairsNegative, captioned_scenes


@dataclass(frozen=True, kw_only=True)
class Frequent:
    """A class that fills a fifth of every batch: the model is quick to say its name.

    Attributes:
        share: of a batch that is of the class, in (0, 1).

    Source:
        Ours: class imbalance, the most common fault of scraped data.
    """

    ID: ClassVar[str] = "frequent/1"

    share: float = 0.2

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.share < 1:
            raise UsageError(f"frequent wants a share in (0, 1), got {self.share}")

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """See `PairsNegative.altered`."""
        concepts = torch.full((pairs.part(self.share),), about.concept)
        side = pairs.images.shape[-1]
        return pairs.led_by(captioned_scenes(load_artwork(), concepts, side, about.generator))


METHOD: type[PairsNegative] = Frequent
