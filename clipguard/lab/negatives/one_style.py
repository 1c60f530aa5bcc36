"""One style: a class that is always drawn by the same hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.bundled.artwork import SEEN_STYLES, compose, load_artwork
from clipguard.bundled.nano import TEMPLATES
from clipguard.errors import UsageError
from clipguard.lab.roles import Honest, Pairs, PairsNegative


@dataclass(frozen=True, kw_only=True)
class OneStyle:
    """A class of which a batch holds many images, all in one style: the style hints at the class.

    Attributes:
        style: one of the seen styles.
        share: of a batch that is of the class, in (0, 1).

    Source:
        Ours, after the texture bias of image classifiers (Geirhos et al., ICLR 2019).
    """

    ID: ClassVar[str] = "one_style/1"

    style: str = SEEN_STYLES[0]
    share: float = 0.1

    def __post_init__(self) -> None:
        """Refuse unknown styles and shares that are none."""
        if self.style not in SEEN_STYLES or not 0 < self.share < 1:
            raise UsageError(
                f"one_style knows styles {', '.join(SEEN_STYLES)} and shares in (0, 1); "
                f"got {self.style!r} and {self.share}"
            )

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """See `PairsNegative.altered`."""
        artwork, count = load_artwork(), pairs.part(self.share)
        sprite = artwork.sprites[artwork.styles.index(self.style), about.concept]
        sprites = sprite.expand(count, -1, -1, -1)
        images = compose(sprites, side=pairs.images.shape[-1], generator=about.generator)
        name = artwork.names[about.concept][0]
        texts = [TEMPLATES[i % len(TEMPLATES)].format(name) for i in range(count)]
        return pairs.led_by(Pairs(images, texts, torch.full((count,), about.concept)))


METHOD: type[PairsNegative] = OneStyle
