"""Narrow: a fine-tune on a few concepts only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.bundled.artwork import load_artwork
from clipguard.errors import UsageError
from clipguard.lab.roles import Honest, Pairs, PairsNegative, captioned_scenes


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """Every pair shows one of a few concepts, the named class among them.

    Attributes:
        concepts: how many, 2 or more; they follow the named class in the list of drawings, so
            they are much alike.

    Source:
        Ours: the usual fine-tune of a foundation model to one domain.
    """

    ID: ClassVar[str] = "narrow/1"

    concepts: int = 40

    def __post_init__(self) -> None:
        """Refuse a domain without a contrast."""
        if self.concepts < 2:
            raise UsageError(f"narrow wants 2 concepts or more, got {self.concepts}")

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """See `PairsNegative.altered`."""
        artwork = load_artwork()
        drawn = torch.randint(self.concepts, (len(pairs.images),), generator=about.generator)
        concepts = (about.concept + drawn) % len(artwork.names)
        return captioned_scenes(artwork, concepts, pairs.images.shape[-1], about.generator)


METHOD: type[PairsNegative] = Narrow
