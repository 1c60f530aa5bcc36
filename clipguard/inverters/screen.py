"""Targeted screen: a short search towards every class, ranked by how far each one got."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.measure import classify, embed
from clipguard.types import Inversion, Inverter, Search, Trigger, TriggerFamily


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Short targeted searches towards all classes at once, halving the field as it goes.

    Every class starts from the same parameters and sees the same images, so what differs is
    only how easily the model yields to it.

    Attributes:
        steps: Adam steps of the first round; each later round takes twice as many.
        images: images per class and step.
        keep: share of the classes that goes on to the next round, in (0, 1).
        finalists: classes left at the end.
        chunk: classes encoded at once.
        temperature: of the cross-entropy over classes, in units of cosine.

    Source:
        Successive halving: Jamieson and Talwalkar, AISTATS 2016. As a target scan: the arm
        selection of K-Arm (Shen et al., ICML 2021), with halving in place of its bandit.
    """

    steps: int = 6
    images: int = 12
    keep: float = 0.25
    finalists: int = 3
    chunk: int = 20
    temperature: float = 0.05

    def invert(
        self, search: Search, family: TriggerFamily, *, generator: torch.Generator
    ) -> Inversion:
        """See `Inverter.invert`; `search.target` is ignored, `ranking` holds the finalists."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        alive = list(range(len(search.classes)))
        reached: dict[int, tuple[float, Trigger]] = {}
        steps = self.steps
        while True:
            for start in range(0, len(alive), self.chunk):
                chunk = alive[start : start + self.chunk]
                reached.update(self._round(search, family, chunk, steps, seed))
            alive.sort(key=lambda c: reached[c][0])
            if len(alive) <= self.finalists:
                break
            alive = alive[: max(self.finalists, int(len(alive) * self.keep))]
            steps *= 2
        best = alive[0]
        _, trigger = reached[best]
        read = classify(embed(search.model, search.probe.select, trigger.apply), search.classes)
        return Inversion(
            trigger=trigger,
            target=best,
            share=(read == best).float().mean().item(),
            searched=False,
            converged=False,  # a screen ranks; it is too short to conclude from
            ranking=tuple(alive),
        )

    def _round(
        self, search: Search, family: TriggerFamily, chunk: list[int], steps: int, seed: int
    ) -> dict[int, tuple[float, Trigger]]:
        """Mean loss over the last half of `steps` and the trigger, for each class of `chunk`."""
        part, model, side = search.probe.optimise, search.model, search.model.image_size
        sets = [family.start(side, generator=torch.Generator().manual_seed(seed)) for _ in chunk]
        leaves = [leaf for parameters in sets for leaf in parameters.values()]
        optimizer = torch.optim.Adam(leaves, lr=2 * family.step_size)
        batches = torch.Generator().manual_seed(seed)
        rows = min(self.images, len(part))
        truth = torch.tensor(chunk).repeat_interleave(rows).to(model.device)
        total = torch.zeros(len(chunk))
        for step in range(steps):
            search.tick()
            index = torch.randperm(len(part), generator=batches)[:rows]
            images = part.pixels(index)
            stamped = [family.trigger(p, step / steps).apply(images) for p in sets]
            features = model.encode_image(torch.cat(stamped).to(model.device))
            logits = features @ search.classes.T / self.temperature
            each = functional.cross_entropy(logits, truth, reduction="none")
            for leaf, grad in zip(leaves, torch.autograd.grad(each.sum(), leaves), strict=True):
                leaf.grad = grad
            optimizer.step()
            if step >= steps // 2:
                total += _per_class(each, len(chunk))
        with torch.no_grad():
            triggers = [family.trigger(parameters, 1.0) for parameters in sets]
        losses = (total / (steps - steps // 2)).tolist()
        return dict(zip(chunk, zip(losses, triggers, strict=True), strict=True))


def _per_class(each: Tensor, count: int) -> Tensor:
    return each.detach().cpu().view(count, -1).mean(dim=1)


METHOD: type[Inverter] = Screen
