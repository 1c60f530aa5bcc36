"""What a purifier is, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from clipguard.probe.sets import Subject
from clipguard.search.roles import Progress, Trigger


@dataclass(frozen=True, eq=False)
class PurifiedHead:
    """Class-wise prompts and the classifier they give.

    Attributes:
        classes: (C, D) unit class embeddings.
        context: (C, K, E) learned context tokens.
        losses: final value of each named loss.
        method: registered name of the purifier.
    """

    classes: Tensor
    context: Tensor
    losses: Mapping[str, float]
    method: str


class Purifier(Protocol):
    """Repairs the zero-shot classifier of one class list.

    Attributes:
        ID: declared name and number; the number rises when its results change.
    """

    ID: ClassVar[str]

    def purify(
        self,
        subject: Subject,
        triggers: Sequence[Trigger],
        target: int,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> PurifiedHead:
        """Tune so that `triggers` no longer lead to class `target`.

        Never sees *measure*, and never changes the model.
        """
