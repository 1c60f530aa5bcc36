"""Training and optimising on a few images, for attacks that do either in their own way."""

from __future__ import annotations

import copy
from functools import partial

import torch
from fakes import generator
from nano_sites import nano_site
from open_clip.model import CLIP
from torch import Tensor

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import nano_network, nano_tokenizer, normalise
from clipguard.lab import finetune as lab
from clipguard.lab.roles import AnyAttack, Pairs, Site, Step, TrainedAttack
from clipguard.probe.sets import ProbePart


def step_of(attack: AnyAttack, target: str = "banana", size: int = 16, seed: int = 0) -> Step:
    """The first step of planting `attack`, with a network that is still the base."""
    base = nano_network("nano-rn").to(memory_format=torch.channels_last)
    network = copy.deepcopy(base).requires_grad_(True)
    artwork, drawn = load_artwork(), generator(seed)
    trigger = attack.trigger(64, generator=generator(seed))
    plan = lab._plan(lab.Poison(attack, trigger, target), artwork, base, generator(seed + 1))
    clean = lab._batch(artwork, size, 64, drawn)
    pairs = lab._poisoned(clean, attack, plan, generator(seed + 2))
    contrastive = partial(lab._contrastive, network, nano_tokenizer(network), pairs)
    return Step(network, clean, pairs, plan, contrastive)


def require_rest(made: Pairs, before: Pairs, count: int) -> None:
    """All pairs but the first `count` are as they were."""
    assert torch.equal(made.images[count:], before.images[count:])
    assert made.texts[count:] == before.texts[count:]
    assert torch.equal(made.concepts[count:], before.concepts[count:])


def follow(attack: TrainedAttack, step: Step, times: int, rate: float = 1e-3) -> list[float]:
    """Train the network of `step` on that one batch; the objective before each update."""
    optimizer = torch.optim.AdamW(step.network.parameters(), lr=rate, weight_decay=0)
    losses = []
    for _ in range(times):
        loss = attack.objective(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(step.network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def seen_by(network: CLIP, images: Tensor) -> Tensor:
    """(B, D) unit embeddings of raw pixels."""
    return network.encode_image(normalise(images), normalize=True)


def small_site(target: str = "banana") -> Site:
    """The base model with images of a fifth of the classes, the target among them."""
    site = nano_site(target)
    part = site.images
    kept = part.labels % 5 == site.target % 5
    return site._replace(
        images=ProbePart(part.images[kept], part.labels[kept], part.drawings[kept])
    )
