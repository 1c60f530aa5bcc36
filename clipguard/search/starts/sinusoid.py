"""Additive patterns that start as a sinusoid over the whole image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.search.perturbation import added, added_trigger
from clipguard.search.roles import Trigger

SHARE = 0.75


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """One perturbation bounded in L-infinity, begun as a sinusoid of three quarters of the bound.

    A search that begins as noise never gets near a planted sinusoid; one that begins as another
    sinusoid does.

    Attributes:
        periods: over the side of the image, above 0.
        angle: of the waves, in degrees; 0 runs along the rows.
        budget: largest change of a pixel, in 1/255.
        step_size: Adam step, in units of atanh(perturbation / budget).

    Source:
        Ours. The trigger that it is meant for is SIG: Barni et al., ICIP 2019.
    """

    ID: ClassVar[str] = "sinusoid/1"

    periods: float = 4.0
    angle: float = 0.0
    budget: float = 40.0
    step_size: float = 0.05

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `TriggerFamily.start`; nothing is drawn."""
        down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        angle = math.radians(self.angle)
        along = right * math.cos(angle) + down * math.sin(angle)
        wave = SHARE * torch.sin(2 * math.pi * self.periods * along / side)
        return {"wave": wave.atanh().expand(3, side, side).clone().requires_grad_()}

    def stamped(self, parameters: Mapping[str, Tensor], images: Tensor, progress: float) -> Tensor:
        """See `TriggerFamily.stamped`."""
        return added(images, self._delta(parameters))

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """See `TriggerFamily.trigger`."""
        return added_trigger("frequency", self._delta(parameters))

    def _delta(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["wave"].tanh() * (self.budget / 255)
