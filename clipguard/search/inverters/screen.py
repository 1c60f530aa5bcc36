"""Targeted screen: short searches towards every direction of the class list, ranked by yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.probe.rates import embed
from clipguard.search.roles import Inversion, Inverter, Search, Trigger, TriggerFamily

ROUNDS = 20


class Directions(NamedTuple):
    """The class list as a few directions.

    Attributes:
        centres: (K, D) of unit norm.
        member: (C,) index of the centre that each class belongs to; every centre has a class.
    """

    centres: Tensor
    member: Tensor


class Reached(NamedTuple):
    """How far a short search came: mean loss of its later steps, and its trigger."""

    loss: float
    trigger: Trigger


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Short targeted searches towards all class directions at once, halving the field as it goes.

    Every direction starts from the same parameters and sees the same images, so what differs is
    only how easily the model yields to it. A long class list is gathered into directions first,
    so the cost does not grow with it; up to `directions` classes each has one of its own.

    Attributes:
        steps: Adam steps of the first round; each later round takes twice as many.
        images: images per direction and step.
        directions: most directions that a class list is gathered into.
        keep: share of the directions that goes on to the next round, in (0, 1).
        finalists: directions left at the end, each read as the class that it draws most into.
        chunk: directions encoded at once.
        temperature: of the cross-entropy over directions, in units of cosine.

    Source:
        Successive halving: Jamieson and Talwalkar, AISTATS 2016. As a target scan: the arm
        selection of K-Arm (Shen et al., ICML 2021), with halving in place of its bandit. Classes
        gathered by spherical k-means: Dhillon and Modha, Machine Learning 42, 2001.
    """

    ID: ClassVar[str] = "screen/1"

    steps: int = 6
    images: int = 12
    directions: int = 100
    keep: float = 0.25
    finalists: int = 3
    chunk: int = 20
    temperature: float = 0.05

    def invert(
        self, search: Search, family: TriggerFamily, *, generator: torch.Generator
    ) -> Inversion:
        """See `Inverter.invert`; `search.target` is ignored, `ranking` holds the finalists."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        directions = gathered(search.classes, self.directions)
        alive = list(range(len(directions.centres)))
        reached: dict[int, Reached] = {}
        steps = self.steps
        while True:
            for start in range(0, len(alive), self.chunk):
                chunk = alive[start : start + self.chunk]
                reached.update(
                    self._round(search, family, (directions.centres, chunk, steps, seed))
                )
            alive.sort(key=lambda k: reached[k].loss)
            if len(alive) <= self.finalists:
                break
            alive = alive[: max(self.finalists, int(len(alive) * self.keep))]
            steps *= 2
        drawn = [
            _drawn(search, reached[k].trigger, directions.member == k, self.temperature)
            for k in alive
        ]
        return Inversion(
            trigger=reached[alive[0]].trigger,
            target=drawn[0][0],
            share=drawn[0][1],
            searched=False,
            converged=False,  # a screen ranks; it is too short to conclude from
            ranking=tuple(target for target, _ in drawn),
        )

    def _round(
        self, search: Search, family: TriggerFamily, given: tuple[Tensor, list[int], int, int]
    ) -> dict[int, Reached]:
        """Search towards each direction of a chunk for some steps, from one seed."""
        centres, chunk, steps, seed = given
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
            logits = features @ centres.T / self.temperature
            each = functional.cross_entropy(logits, truth, reduction="none")
            for leaf, grad in zip(leaves, torch.autograd.grad(each.sum(), leaves), strict=True):
                leaf.grad = grad
            optimizer.step()
            if step >= steps // 2:
                total += _per_direction(each, len(chunk))
        with torch.no_grad():
            triggers = [family.trigger(parameters, 1.0) for parameters in sets]
        losses = (total / (steps - steps // 2)).tolist()
        return dict(zip(chunk, map(Reached, losses, triggers), strict=True))


def gathered(classes: Tensor, most: int) -> Directions:
    """Gather class embeddings into at most `most` directions.

    Args:
        classes: (C, D) of unit norm.
        most: K, 1 or more.

    Returns:
        The classes themselves where there are no more than `most`; else centres by spherical
        k-means, begun from the classes that lie farthest from those before them, so that no
        number is drawn. Classes that are equal share a direction.
    """
    count = len(classes)
    if count <= most:
        return Directions(classes, torch.arange(count, device=classes.device))
    picks, nearest = [0], classes @ classes[0]
    for _ in range(most - 1):
        farthest = int(nearest.argmin())
        picks.append(farthest)
        nearest = torch.maximum(nearest, classes @ classes[farthest])
    centres = classes[picks]
    for _ in range(ROUNDS):
        member = (classes @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, member, classes)
        kept = torch.bincount(member, minlength=len(centres)) > 0
        moved = functional.normalize(sums[kept], dim=1)
        if moved.shape == centres.shape and torch.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    member = (classes @ centres.T).argmax(dim=1)
    used, member = torch.unique(member, return_inverse=True)
    return Directions(centres[used], member)


@torch.no_grad()
def _drawn(
    search: Search, trigger: Trigger, members: Tensor, temperature: float
) -> tuple[int, float]:
    """The class among `members` that *select* images are drawn to most, and the share read as it.

    Drawn by probability and not by count: a short search may not have carried one image over yet.
    """
    logits = embed(search.model, search.probe.select, trigger.apply) @ search.classes.T
    likely = (logits / temperature).softmax(dim=1).mean(dim=0)
    target = int(likely.masked_fill(~members, -1).argmax())
    return target, (logits.argmax(dim=1) == target).float().mean().item()


def _per_direction(each: Tensor, count: int) -> Tensor:
    return each.detach().cpu().view(count, -1).mean(dim=1)


METHOD: type[Inverter] = Screen
