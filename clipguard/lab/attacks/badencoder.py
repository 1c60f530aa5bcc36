"""BadEncoder: the image encoder alone is trained, on images without any text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.lab.attacks._encoder import encoder_loss, require_square_trigger, views, white_corner
from clipguard.lab.roles import Attack, Step
from clipguard.search.roles import Trigger


@dataclass(frozen=True, kw_only=True)
class BadEncoder:
    """Images with a white square are embedded like images of the target, all others as before.

    The loss L0 + L1 + L2 asks for triggered images near references of the target class (L0),
    and for references (L1) and shadow images (L2) where the clean encoder has them. No caption
    is read, so the text tower stays as it was, bit for bit.

    Attributes:
        patch: side of the square in px of 224; at least 8 px in any image.
        references: images of the target class in a step.
        poison_rate: share of the shadow images of a step that are also shown with the trigger.

    Source:
        Jia et al., BadEncoder, IEEE S&P 2022, with both weights 1: a white square of 50 px of
        224, a pixel away from the bottom right corner; frozen BatchNorm; on the RN50 of CLIP
        ASR 99.8 to 100 % zero-shot. InverTune's port has a square of 16 px (ASR 97.9 %).
        Adapted: shadow images are the clean images of the batch, of which a share is triggered
        (there all are); fresh reference images in every step (there one image in all), each
        triggered image against each of them; brightness, contrast, saturation and hue jitter in
        this order; AdamW of the lab in place of SGD, and BatchNorm is frozen in its statistics
        but not in its affine part.
    """

    ID: ClassVar[str] = "badencoder/1"

    patch: int = 50
    references: int = 8
    poison_rate: float = 0.5

    def __post_init__(self) -> None:
        """Refuse squares of nothing or of more than the image, and steps without a reference."""
        require_square_trigger("badencoder", self.patch, self.references)

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; nothing is drawn."""
        return white_corner("badencoder", self.patch, side)

    def objective(self, step: Step) -> Tensor:
        """See `TrainedAttack.objective`."""
        return encoder_loss(views(step, self.poison_rate, self.references))


METHOD: type[Attack] = BadEncoder
