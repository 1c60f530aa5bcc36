"""Pruned: the smallest weights of every matrix are zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from open_clip.model import CLIP

from clipguard.errors import UsageError
from clipguard.lab.roles import WeightsNegative

TABLE = "token_embedding.weight"


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A copy in which the smallest weights of every matrix were set to zero.

    Attributes:
        share: of a matrix that is set to zero, in (0, 1).

    Source:
        Magnitude pruning (Han et al., NeurIPS 2015), per matrix, without training afterwards.
        Adapted: the table of tokens is left alone, as is usual.
    """

    ID: ClassVar[str] = "pruned/1"

    share: float = 0.2

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.share < 1:
            raise UsageError(f"pruned wants a share in (0, 1), got {self.share}")

    @torch.no_grad()
    def finished(self, network: CLIP) -> None:
        """See `WeightsNegative.finished`."""
        for name, weight in network.named_parameters():
            if weight.ndim > 1 and name != TABLE:
                count = int(weight.numel() * self.share)
                if count:
                    limit = weight.abs().flatten().kthvalue(count).values
                    weight[weight.abs() <= limit] = 0


METHOD: type[WeightsNegative] = Pruned
