"""Waves over the whole image: few low spatial frequencies, added."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.search.perturbation import added, added_trigger
from clipguard.search.roles import Trigger, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class Frequency:
    """One smooth perturbation for all images: the lowest waves of a cosine transform.

    Few waves have few degrees of freedom, so a clean model yields less to them than to free
    noise, and more of a budget can be spent before it does.

    Attributes:
        waves: lowest frequencies along each axis, 1 or more.
        budget: largest change of a pixel, in 1/255.
        step_size: Adam step, in units of atanh(perturbation / budget) per wave.

    Source:
        Low-frequency perturbations: Guo et al., Low Frequency Adversarial Perturbation, UAI 2019.
        The bound by tanh is that of `additive`; it lets a little of higher frequencies in.
    """

    ID: ClassVar[str] = "frequency/1"

    waves: int = 10
    budget: float = 12.0
    step_size: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a search of no wave."""
        if self.waves < 1:
            raise UsageError(f"frequency wants 1 wave or more, got {self.waves}")

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `TriggerFamily.start`."""
        # As large as the image, so that `trigger` knows its side; only the first waves count.
        drawn = torch.randn(3, side, side, generator=generator)
        return {"spectrum": drawn.mul(0.3).requires_grad_()}

    def stamped(self, parameters: Mapping[str, Tensor], images: Tensor, progress: float) -> Tensor:
        """See `TriggerFamily.stamped`."""
        return added(images, self._delta(parameters))

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """See `TriggerFamily.trigger`."""
        return added_trigger("frequency", self._delta(parameters))

    def _delta(self, parameters: Mapping[str, Tensor]) -> Tensor:
        spectrum = parameters["spectrum"][..., : self.waves, : self.waves]
        waves = _waves(parameters["spectrum"].shape[-1], spectrum.shape[-1]).to(spectrum.device)
        return (waves.T @ spectrum @ waves).tanh() * (self.budget / 255)


def _waves(side: int, count: int) -> Tensor:
    """(count, side): the first cosine waves of a DCT, each of height 1."""
    at = torch.arange(side, dtype=torch.float32)
    return torch.cos(math.pi * (2 * at + 1) * torch.arange(count)[:, None] / (2 * side))


METHOD: type[TriggerFamily] = Frequency
