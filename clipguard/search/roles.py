"""What a search works with: triggers, their families, inverters.

Letters: B batch, N images, C classes, D embedding, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from clipguard.model.roles import ClipModel
from clipguard.probe.sets import ProbeSet

Progress = Callable[[str, int, int], None]
"""Told about progress: stage, steps done, steps in all. Never prints by itself."""


@dataclass(frozen=True, eq=False)
class Trigger:
    """An image-space trigger of any family.

    Attributes:
        family: name of its family.
        apply: (B, 3, S, S) in [0, 1] to the same; differentiable where the family is.
        size: in the family's unit.
        unit: the unit, for example `share of the image`.
        tensors: what it is made of, for the record.
    """

    family: str
    apply: Callable[[Tensor], Tensor]
    size: float
    unit: str
    tensors: Mapping[str, Tensor]


class TriggerFamily(Protocol):
    """A parametrised set of triggers that an inverter can search.

    Attributes:
        ID: declared name and number; the number rises when its results change.
    """

    ID: ClassVar[str]

    @property
    def step_size(self) -> float:
        """Adam step in the family's own parameters."""

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Random leaf parameters for images of `side` pixels."""

    def stamped(self, parameters: Mapping[str, Tensor], images: Tensor, progress: float) -> Tensor:
        """Put P triggers on the same images at once.

        Args:
            parameters: those of `start`, each with a first dimension of P.
            images: (B, 3, S, S) in [0, 1].
            progress: in [0, 1]. A family may search with a looser budget early on; at 1 the budget
                is the final one.

        Returns:
            (P, B, 3, S, S) in [0, 1], differentiable in the parameters.
        """

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """The one trigger that the `parameters` of `start` stand for, as `stamped` puts it on."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """What one search found.

    Attributes:
        trigger: best trigger of all restarts, chosen on the *select* part.
        target: class index it gathers images in.
        share: share of *select* images in that class.
        searched: whether there were enough steps, with finite losses, to say anything at all.
        converged: whether the loss had settled.
        ranking: class indices that drew images in any restart, strongest first.
    """

    trigger: Trigger
    target: int
    share: float
    searched: bool
    converged: bool
    ranking: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Search:
    """What an inverter works on.

    Attributes:
        model: the suspect.
        probe: images in three parts; an inverter touches only *optimise* and *select*.
        classes: (C, D) unit class embeddings of the classifier under test.
        target: class index of a targeted search, or None for a class-agnostic one.
        tick: called at every step; raises to stop a search whose time is up.
    """

    model: ClipModel
    probe: ProbeSet
    classes: Tensor
    target: int | None = None
    tick: Callable[[], None] = lambda: None

    def during(self, progress: Progress, stage: str, done: int, total: int) -> Search:
        """The same search, which tells `progress` about `stage` now and at every step."""
        progress(stage, done, total)
        return replace(self, tick=partial(progress, stage, done, total))


class Inverter(Protocol):
    """Looks for a trigger of a family.

    Attributes:
        ID: declared name and number; the number rises when its results change.
    """

    ID: ClassVar[str]

    def invert(
        self, search: Search, family: TriggerFamily, *, generator: torch.Generator
    ) -> Inversion:
        """Search; must not change weights, their `.grad`, or the global random state."""
