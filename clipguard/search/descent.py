"""The descent that every gradient inverter runs: batches, budget schedule, bookkeeping."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import variance

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.search.roles import Search, Trigger, TriggerFamily

Objective = Callable[[Tensor, Tensor], Tensor]
"""Loss of triggered embeddings (B, D) and the indices (B,) of their images in *optimise*."""


def descend(
    search: Search,
    family: TriggerFamily,
    objective: Objective,
    *,
    steps: int,
    batch: int,
    generator: torch.Generator,
) -> tuple[Trigger, list[float]]:
    """Minimise `objective` over the parameters of `family`, on the *optimise* part only.

    Args:
        search: model and images.
        family: what is searched.
        objective: the loss.
        steps: Adam steps; the step size falls along a cosine.
        batch: images in a step.
        generator: draws the start and the batches.

    Returns:
        The final trigger and the loss of every step.
    """
    part, model = search.probe.optimise, search.model
    parameters = family.start(model.image_size, generator=generator)
    names = list(parameters)
    optimizer = torch.optim.Adam([parameters[n] for n in names], lr=family.step_size)
    losses = []
    for step in range(steps):
        search.tick()
        optimizer.param_groups[0]["lr"] = family.step_size * (
            0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))
        )
        index = torch.randperm(len(part), generator=generator)[:batch]
        trigger = family.trigger(parameters, step / steps)
        features = model.encode_image(trigger.apply(part.pixels(index)).to(model.device))
        loss = objective(features, index)
        # Gradients are asked for by name: the model's own .grad must stay empty.
        grads = torch.autograd.grad(loss, [parameters[n] for n in names])
        for name, grad in zip(names, grads, strict=True):
            parameters[name].grad = grad
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return family.trigger(parameters, 1.0), losses


def searched(losses: list[float]) -> bool:
    """Whether a search can say anything: 20 steps or more, every loss finite."""
    return len(losses) >= 20 and all(math.isfinite(loss) for loss in losses)


def settled(losses: list[float], tolerance: float) -> bool:
    """Whether a search had stopped gaining clearly when its steps ran out.

    The last tenth of the steps is compared with the tenth before. Losses of single batches are
    noisy, so a gain counts only beyond three standard errors of that difference.

    Args:
        losses: one a step.
        tolerance: gain that is still called settled, in the unit of the loss.

    Returns:
        False where `searched` is.
    """
    if not searched(losses):
        return False
    tenth = len(losses) // 10
    before, last = losses[-2 * tenth : -tenth], losses[-tenth:]
    error = math.sqrt((variance(before) + variance(last)) / tenth)
    return sum(before) / tenth - sum(last) / tenth - 3 * error < tolerance


def collapse_loss(triggered: Tensor, clean: Tensor, own: Tensor, temperature: float) -> Tensor:
    """How far triggered embeddings are from sitting together and away from clean ones.

    L = -mean_i log( P_i / (P_i + N_i) ), with P_i the sum over the other triggered rows of
    exp(a_i·a_j/T) and N_i the sum over all clean rows of exp(a_i·c_k/T) plus exp(a_i·t_i/T).

    Args:
        triggered: (B, D) unit rows a, B >= 2.
        clean: (B, D) unit rows c of the same images without trigger.
        own: (B, D) unit rows t, the class embedding of each image's own (pseudo-)class.
        temperature: T > 0.

    Source:
        Reconstruction of CBPT stage 1 (arXiv 2502.19269), see the design notes.
    """
    together = triggered @ triggered.T / temperature
    itself = torch.eye(len(together), dtype=torch.bool, device=together.device)
    positive = together.masked_fill(itself, -math.inf).logsumexp(dim=1)
    apart = torch.cat([triggered @ clean.T, (triggered * own).sum(dim=1, keepdim=True)], dim=1)
    return -functional.logsigmoid(positive - (apart / temperature).logsumexp(dim=1)).mean()
