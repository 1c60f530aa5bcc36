"""Targeted search: the strongest trigger of a family for one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.probe.rates import classify, embed
from clipguard.search.descent import descend, searched, settled
from clipguard.search.roles import Inversion, Inverter, Search, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class Targeted:
    """Raise the target's margin over the best other class on every image.

    Attributes:
        steps: Adam steps per restart.
        batch: images in a step.
        restarts: independent starts; the best on the *select* part is kept.
        temperature: of the cross-entropy over classes, in units of cosine.
        tolerance: converged when the last tenth of the steps gained less than this, in nats.

    Source:
        Wang et al., Neural Cleanse, IEEE S&P 2019, with the zero-shot classifier as the head and
        a family's budget in place of the size penalty.
    """

    ID: ClassVar[str] = "targeted/1"

    steps: int = 80
    batch: int = 32
    restarts: int = 1
    temperature: float = 0.05
    tolerance: float = 0.1

    def invert(
        self, search: Search, family: TriggerFamily, *, generator: torch.Generator
    ) -> Inversion:
        """See `Inverter.invert`.

        Raises:
            ValueError: `search.target` is missing.
        """
        target = search.target
        if target is None:
            raise ValueError("a targeted search needs a target class")

        def loss(triggered: Tensor, index: Tensor) -> Tensor:
            logits = triggered @ search.classes.T / self.temperature
            truth = torch.full_like(index, target).to(logits.device)
            return functional.cross_entropy(logits, truth)

        found = []
        for _ in range(self.restarts):
            trigger, losses = descend(
                search, family, loss, steps=self.steps, batch=self.batch, generator=generator
            )
            read = classify(embed(search.model, search.probe.select, trigger.apply), search.classes)
            found.append(((read == target).float().mean().item(), trigger, losses))
        share, trigger, losses = max(found, key=lambda item: item[0])
        return Inversion(
            trigger=trigger,
            target=target,
            share=share,
            searched=searched(losses),
            converged=settled(losses, self.tolerance),
            ranking=(target,),
        )


METHOD: type[Inverter] = Targeted
