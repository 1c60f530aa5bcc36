"""Class-agnostic search: one trigger that gathers all images anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.probe.rates import classify, embed
from clipguard.search.descent import collapse_loss, descend, searched, settled
from clipguard.search.roles import Inversion, Inverter, Search, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Pull triggered embeddings together and away from the clean ones.

    Knows neither trigger nor target; the cost does not depend on the number of classes. Positives
    of a triggered image are the other triggered images; negatives are all clean images and the
    text of the image's own (pseudo-)class.

    Attributes:
        steps: Adam steps per restart.
        batch: images in a step.
        restarts: independent starts; the best on the *select* part is kept.
        temperature: of the contrastive loss.
        tolerance: converged when the last tenth of the steps gained less than this, in nats.

    Source:
        Stage 1 of CBPT (Kong et al., arXiv 2502.19269), reconstructed from its abstract and from
        C-PGC (ICCV 2025): the loss, the temperature and every number here are our choice.
    """

    ID: ClassVar[str] = "collapse/1"

    steps: int = 80
    batch: int = 32
    restarts: int = 2
    temperature: float = 0.1
    tolerance: float = 0.05

    def invert(
        self, search: Search, family: TriggerFamily, *, generator: torch.Generator
    ) -> Inversion:
        """See `Inverter.invert`; `search.target` is ignored."""
        clean = embed(search.model, search.probe.optimise)
        own = search.classes[classify(clean, search.classes)]

        def loss(triggered: Tensor, index: Tensor) -> Tensor:
            return collapse_loss(triggered, clean[index], own[index], self.temperature)

        found = []
        for _ in range(self.restarts):
            trigger, losses = descend(
                search, family, loss, steps=self.steps, batch=self.batch, generator=generator
            )
            read = classify(embed(search.model, search.probe.select, trigger.apply), search.classes)
            counts = torch.bincount(read, minlength=len(search.classes))
            found.append((counts.max().item() / len(read), counts, trigger, losses))
        share, counts, trigger, losses = max(found, key=lambda item: item[0])
        drawn = torch.stack([item[1] for item in found]).amax(dim=0)
        return Inversion(
            trigger=trigger,
            target=int(counts.argmax()),
            share=share,
            searched=searched(losses),
            converged=settled(losses, self.tolerance),
            ranking=tuple(drawn.argsort(descending=True, stable=True)[:10].tolist()),
        )


METHOD: type[Inverter] = Collapse
