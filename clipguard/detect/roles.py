"""What a detector is, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from clipguard.probe.sets import Subject
from clipguard.record import DetectorRecord, FamilyRecord
from clipguard.search.roles import Progress, Trigger


@dataclass(frozen=True, eq=False)
class Finding:
    """What a detector measured, together with the triggers behind it.

    Attributes:
        record: the measurements, candidates worst first, without file names yet.
        triggers: the trigger of each candidate, in the same order.
    """

    record: DetectorRecord
    triggers: tuple[Trigger, ...]


class NullBand(Protocol):
    """Statistics of the same pipeline on known-clean models of one family."""

    def compare(
        self, statistics: Mapping[str, float]
    ) -> tuple[tuple[FamilyRecord, ...], float, float]:
        """Family records, largest excess, and conformal p-value of the maximum."""


class Detector(Protocol):
    """Measures what a checkpoint shows of a backdoor; a policy concludes.

    Attributes:
        ID: declared name and number; the number rises when its measurements change.
    """

    ID: ClassVar[str]

    def detect(
        self,
        subject: Subject,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """Measure `subject` against `null`; changes neither weights nor global random state."""
