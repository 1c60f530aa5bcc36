"""Blended: a faint fixed picture over the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clipguard.types import Attack, Trigger


@dataclass(frozen=True, kw_only=True)
class Blended:
    """Fixed uniform noise blended into the whole image.

    Attributes:
        ratio: weight of the noise, in (0, 1).
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Chen et al., Targeted Backdoor Attacks using Data Poisoning, 2017; ratio and noise as
        in CleanCLIP (ICCV 2023), but one noise image per victim instead of one per call.
    """

    ratio: float = 0.2
    poison_rate: float = 0.08

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`."""
        noise = (torch.rand(3, side, side, generator=generator) * 255).round() / 255
        return Trigger(
            "blended",
            lambda images: torch.lerp(images, noise.expand_as(images), self.ratio),
            self.ratio,
            "opacity over the whole image",
            {"noise": noise},
        )


METHOD: type[Attack] = Blended
