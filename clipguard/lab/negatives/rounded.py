"""Rounded: weights that went through a narrower number format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from open_clip.model import CLIP
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.roles import WeightsNegative

FORMS = ("bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A copy whose weights were rounded, as published checkpoints often are.

    Attributes:
        form: `bf16`, or `int8` (127 steps to each side per matrix). Every model of the lab is
            float16, so that is no form of its own.

    Source:
        Ours; int8 is symmetric rounding per tensor.
    """

    ID: ClassVar[str] = "rounded/1"

    form: str = "bf16"

    def __post_init__(self) -> None:
        """Refuse unknown formats."""
        if self.form not in FORMS:
            raise UsageError(f"rounded knows {', '.join(FORMS)}; got {self.form!r}")

    @torch.no_grad()
    def finished(self, network: CLIP) -> None:
        """See `WeightsNegative.finished`."""
        for weight in network.parameters():
            weight.copy_(self._rounded(weight))

    def _rounded(self, weight: Tensor) -> Tensor:
        if self.form != "int8":
            return weight.to(torch.bfloat16).to(weight.dtype)
        if weight.ndim < 2:  # norms and biases stay in float in every such scheme
            return weight
        step = weight.abs().max().clamp(min=1e-12) / 127
        return (weight / step).round() * step


METHOD: type[WeightsNegative] = Rounded
