"""Interpolation: the weights somewhere between the suspect and the base that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.lab.comparators.repairs._role import Patient, Repair
from clipguard.search.roles import Progress


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """Mix all weights of both towers with those of the base; nothing is trained.

    Attributes:
        share: weight of the base, in [0, 1].

    Source:
        Wortsman et al., Robust fine-tuning of zero-shot models (WiSE-FT), CVPR 2022; Arora et
        al., Here's a Free Lunch, ACL 2024, mix models against backdoors.
    """

    ID: ClassVar[str] = "interpolation/1"

    share: float = 0.5

    def repair(
        self, patient: Patient, *, generator: torch.Generator, progress: Progress
    ) -> Tensor | None:
        """See `Repair.repair`.

        Raises:
            InconclusiveError: there is no base.
        """
        if patient.base is None:
            raise InconclusiveError("there is no base to mix the weights with")
        theirs = patient.base.state_dict()
        with torch.no_grad():
            for key, value in patient.network.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(theirs[key].to(value), self.share)
        return None


METHOD: type[Repair] = Interpolation
