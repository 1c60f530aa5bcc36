"""InverTune, its last part: activations that the inverted trigger moves are moved back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.lab.comparators.repairs._role import Patient, Repair
from clipguard.lab.comparators.repairs._training import image_embeddings, stages, train, watched
from clipguard.search.roles import Progress

LAYERS = 3


@dataclass(frozen=True, kw_only=True)
class InverTune:
    """Tune the image tower until its mean activations are the same with and without the trigger.

    Attributes:
        steps: optimiser steps.
        learning_rate: the peak.
        batch: images, the same in every step.
        held: weight of keeping the clean embeddings.

    Source:
        Sun et al., InverTune, arXiv 2506.12411, from its code: the three of the four stages of a
        ResNet that a trigger moves most; in each, two clusters of positions by how far they are
        moved, of which the farther counts; all weights are trained, AdamW at 2e-6, 200 steps on
        one batch of 64, weight 0.5. Adapted: trigger and target are those that clipguard's search
        found; rates for a small model; no choice among the steps; batch statistics stay frozen.
    """

    ID: ClassVar[str] = "invertune/2"

    steps: int = 200
    learning_rate: float = 3e-4
    batch: int = 64
    held: float = 0.5

    def repair(
        self, patient: Patient, *, generator: torch.Generator, progress: Progress
    ) -> Tensor | None:
        """See `Repair.repair`.

        Raises:
            InconclusiveError: the image tower is no ResNet.
        """
        visual = patient.network.visual
        if len(stages(patient.network)) <= LAYERS:
            raise InconclusiveError("this repair knows the stages of ResNets only")
        part, triggers = patient.subject.probe.optimise, patient.backdoor.triggers
        index = torch.randperm(len(part), generator=generator)[: self.batch]
        clean = part.pixels(index)
        shown = torch.cat(
            [triggers[i % len(triggers)].apply(clean[i : i + 1]) for i in range(len(clean))]
        )
        frozen = copy.deepcopy(patient.network)
        with torch.no_grad():
            wanted = image_embeddings(frozen, clean)
            before, after = self._means(patient, clean, shown)[:2]
        masks = _moved(before, after)

        def loss(step: int) -> Tensor:
            one, other, rows = self._means(patient, clean, shown)
            apart = [
                ((one[name] - other[name]) * mask).norm() / (one[name] * mask).norm()
                for name, mask in masks.items()
            ]
            moved: Tensor = (rows - wanted).norm()
            return torch.stack(apart).sum() + self.held * moved

        rate = self.learning_rate
        train(visual, loss, steps=self.steps, learning_rate=rate, progress=progress)
        return None

    def _means(
        self, patient: Patient, clean: Tensor, shown: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Mean activations of each stage, without and with the trigger, and clean embeddings."""
        parts, count = stages(patient.network), len(clean)
        with watched(parts.values()) as seen:
            rows = image_embeddings(patient.network, torch.cat([clean, shown]))
        made = dict(zip(parts, seen, strict=True))
        one = {name: value[:count].mean(dim=0) for name, value in made.items()}
        other = {name: value[count:].mean(dim=0) for name, value in made.items()}
        return one, other, rows[:count]


def _moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where the stages that move most move far: masks of their mean activations."""
    impact = {
        name: ((value - after[name]).norm() / value.norm()).item() for name, value in before.items()
    }
    chosen = sorted(impact, key=lambda name: -impact[name])[:LAYERS]
    return {name: far((before[name] - after[name]).abs()) for name in chosen}


def far(values: Tensor, rounds: int = 20) -> Tensor:
    """Which of `values`, of any shape, fall into the larger of two clusters, as 0 and 1."""
    low, high = values.min(), values.max()
    for _ in range(rounds):
        upper = values > (low + high) / 2
        if not upper.any() or upper.all():
            break
        low, high = values[~upper].mean(), values[upper].mean()
    return (values > (low + high) / 2).to(values.dtype)


METHOD: type[Repair] = InverTune
