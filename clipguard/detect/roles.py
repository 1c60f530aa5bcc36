"""What a detector is, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from clipguard.model.roles import ClipModel
from clipguard.probe.sets import ProbeSet
from clipguard.record import DetectorRecord, FamilyRecord
from clipguard.search.roles import Progress, Trigger


@dataclass(frozen=True, eq=False)
class Finding:
    """A detector's conclusion together with the triggers behind it.

    Attributes:
        record: the conclusion, candidates worst first, without file names yet.
        triggers: the trigger of each candidate, in the same order.
        gaps: why parts of the search cannot be concluded from; empty when all of it can.
    """

    record: DetectorRecord
    triggers: tuple[Trigger, ...]
    gaps: str = ""


class NullBand(Protocol):
    """Statistics of the same pipeline on known-clean models of one family."""

    def compare(
        self, statistics: Mapping[str, float]
    ) -> tuple[tuple[FamilyRecord, ...], float, float]:
        """Family records, largest excess, and conformal p-value of the maximum."""
        ...


class Detector(Protocol):
    """Decides whether a checkpoint carries a backdoor."""

    def fingerprint(self) -> str:
        """Every setting that changes its statistics, defaults included, as text."""
        ...

    def detect(
        self,
        model: ClipModel,
        probe: ProbeSet,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """Judge `model` against `null`; must not change weights or the global random state."""
        ...
