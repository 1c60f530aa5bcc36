"""The same searches on two models: the suspect, and a reference that it is held against.

Letters: P triggers searched at once, B images of a step, C classes, S side of the suspect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from clipguard.search.roles import TriggerFamily
from clipguard.search.sides import Side


class Aim(NamedTuple):
    """One search: a trigger of `family` that makes a model read one of the classes of `goal`."""

    family: TriggerFamily
    goal: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to search.

    Attributes:
        steps: Adam steps.
        images: images of a step.
        step_size: times that of the family.
        settle: whether the step size falls along a cosine.
    """

    steps: int
    images: int
    step_size: float = 1.0
    settle: bool = False


class Reached(NamedTuple):
    """What a search came to.

    Attributes:
        parameters: of its trigger.
        loss: mean over the later half of its steps.
        sound: whether loss and parameters are finite, and a gradient reached them at all. Of a
            model whose gradients overflow or vanish a search says nothing.
    """

    parameters: Mapping[str, Tensor]
    loss: float
    sound: bool


def search_all(
    side: Side,
    aims: Sequence[Aim],
    images: Tensor,
    effort: Effort,
    *,
    seed: int,
    tick: Callable[[], None],
) -> list[Reached]:
    """Search towards every aim, from the same start and with the same images in each step.

    What differs between two aims, or between two models, is then only how easily one yields.

    Args:
        side: the model.
        aims: what to search for; as many as memory allows go through the model together.
        images: (N, 3, S, S) uint8 to search on.
        effort: how long.
        seed: of starts and batches.
        tick: called at every step; raises to stop.

    Returns:
        What each aim came to, in their order.
    """
    size, found = side.rows(effort.images, images.shape[-1]), dict[int, Reached]()
    families = [*dict.fromkeys(aim.family for aim in aims)]
    order = sorted(range(len(aims)), key=lambda i: families.index(aims[i].family))
    for start in range(0, len(order), size):
        part = order[start : start + size]
        reached = _descend(side, [aims[i] for i in part], images, effort, seed, tick)
        found.update(zip(part, reached, strict=True))
    return [found[i] for i in range(len(aims))]


def _descend(
    side: Side,
    aims: Sequence[Aim],
    images: Tensor,
    effort: Effort,
    seed: int,
    tick: Callable[[], None],
) -> list[Reached]:
    """Some of the searches of `search_all`, together in every pass."""
    device, draws = side.model.device, torch.Generator().manual_seed(seed)
    runs = [(family, list(run)) for family, run in groupby(aims, key=lambda aim: aim.family)]
    leaves = [_leaves(family, len(run), images.shape[-1], seed, device) for family, run in runs]
    rates = [family.step_size * effort.step_size for family, _ in runs]
    optimizer = torch.optim.Adam(
        [{"params": list(each.values())} for each in leaves], lr=1.0, foreach=True
    )
    flat = [leaf for each in leaves for leaf in each.values()]
    outside = _outside([aim.goal for aim in aims], len(side.classes)).to(device)[:, None]
    total, count = torch.zeros(len(aims), device=device), min(effort.images, len(images))
    sound = torch.ones(len(aims), dtype=torch.bool)
    for step in range(effort.steps):
        tick()
        fall = 0.1 + 0.45 * (1 + math.cos(math.pi * step / effort.steps)) if effort.settle else 1.0
        for group, step_size in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = step_size * fall
        batch = images[torch.randperm(len(images), generator=draws)[:count]].to(device) / 255
        shown = [
            family.stamped(each, batch, step / effort.steps).flatten(0, 1)
            for (family, _), each in zip(runs, leaves, strict=True)
        ]
        logits = side.logits(torch.cat(shown)).view(len(aims), count, -1)
        inside = logits.masked_fill(outside, -math.inf).logsumexp(dim=2)
        each_loss = (logits.logsumexp(dim=2) - inside).sum(dim=1)
        # By name: the model's own .grad must stay empty. A sum, so that no aim slows another.
        for leaf, grad in zip(flat, torch.autograd.grad(each_loss.sum(), flat), strict=True):
            leaf.grad = grad
        if not step:
            sound = _reached(leaves)
        optimizer.step()
        if step >= effort.steps // 2:
            total += each_loss.detach() / count
    losses = (total / (effort.steps - effort.steps // 2)).tolist()
    ends = [
        {key: leaf.detach()[row].cpu() for key, leaf in each.items()}
        for (_, run), each in zip(runs, leaves, strict=True)
        for row in range(len(run))
    ]
    return [
        Reached(end, loss, good and math.isfinite(loss) and all(map(_finite, end.values())))
        for end, loss, good in zip(ends, losses, sound.tolist(), strict=True)
    ]


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def _reached(leaves: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """(P,) whether any gradient is there, for the triggers of all families in a row."""
    return torch.cat(
        [
            torch.stack([_strength(leaf) for leaf in each.values()]).sum(dim=0).cpu() > 0
            for each in leaves
        ]
    )


def _strength(leaf: Tensor) -> Tensor:
    return torch.zeros(len(leaf)) if leaf.grad is None else leaf.grad.flatten(1).abs().sum(dim=1)


def _leaves(
    family: TriggerFamily, count: int, side: int, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """The start of a family, `count` times."""
    start = family.start(side, generator=torch.Generator().manual_seed(seed))
    return {
        key: leaf.detach().to(device).repeat(count, *[1] * leaf.dim()).requires_grad_()
        for key, leaf in start.items()
    }


def _outside(goals: Sequence[tuple[int, ...]], classes: int) -> Tensor:
    """(P, C): which classes are no part of a goal."""
    mask = torch.ones(len(goals), classes, dtype=torch.bool)
    for row, goal in zip(mask, goals, strict=True):
        row[list(goal)] = False
    return mask


@torch.no_grad()
def readings(side: Side, aims: Sequence[Aim], found: Sequence[Reached], images: Tensor) -> Tensor:
    """Classes that triggered images are read as: (P, N), on the CPU.

    Triggered images are rounded to 8 bits, because an attacker's image is a file.

    Args:
        side: the model that reads.
        aims: P searches.
        found: what each came to, on either model.
        images: (N, 3, S, S) uint8.
    """
    device, size = side.model.device, side.rows(len(images), images.shape[-1])
    at_once = max(1, side.rows(1, images.shape[-1]))
    rows: list[Tensor] = []
    for family, run in groupby(zip(aims, found, strict=True), key=lambda pair: pair[0].family):
        ends = [one.parameters for _, one in run]
        for start in range(0, len(ends), size):
            part = ends[start : start + size]
            leaves = {key: torch.stack([end[key] for end in part]).to(device) for key in part[0]}
            read = []
            for batch in torch.split(images, at_once):
                shown = family.stamped(leaves, batch.to(device) / 255, 1.0)
                shown = (shown.flatten(0, 1) * 255).round() / 255
                read.append(side.logits(shown).argmax(dim=1).view(len(part), -1).cpu())
            rows.append(torch.cat(read, dim=1))
    return torch.cat(rows)
