"""Faint patterns added to the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.search.perturbation import added, added_trigger
from clipguard.search.roles import Trigger, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class Additive:
    """One perturbation for all images, bounded in L-infinity.

    Attributes:
        budget: largest change of a pixel, in 1/255.
        step_size: Adam step, in units of atanh(perturbation / budget).

    Source:
        Universal perturbation: Moosavi-Dezfooli et al., CVPR 2017. The tanh form, which keeps
        the bound without projection, follows Carlini and Wagner, IEEE S&P 2017.
    """

    ID: ClassVar[str] = "additive/1"

    budget: float = 8.0
    step_size: float = 0.15

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `TriggerFamily.start`."""
        return {"noise": torch.randn(3, side, side, generator=generator).mul(0.3).requires_grad_()}

    def stamped(self, parameters: Mapping[str, Tensor], images: Tensor, progress: float) -> Tensor:
        """See `TriggerFamily.stamped`."""
        return added(images, self._delta(parameters))

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """See `TriggerFamily.trigger`."""
        return added_trigger("additive", self._delta(parameters))

    def _delta(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["noise"].tanh() * (self.budget / 255)


METHOD: type[TriggerFamily] = Additive
