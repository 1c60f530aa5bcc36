"""Fine-tuning of a nano base, with or without poison: the same code for victim and twin."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional

from clipguard.artwork import Artwork, compose, load_artwork
from clipguard.nano import TEMPLATES, encode_captions, nano_tokenizer, normalise
from clipguard.poisoning import (
    AnyAttack,
    PairedAttack,
    Pairs,
    Plan,
    Step,
    TrainedAttack,
    dirty_label,
)
from clipguard.types import Progress, Trigger

SPARE = 900_000_000
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a base is fine-tuned.

    Attributes:
        steps: optimiser steps.
        learning_rate: AdamW peak, decayed to zero along a cosine.
        batch: image-text pairs in a step.
    """

    steps: int = 120
    learning_rate: float = 5e-4
    batch: int = 128


@dataclass(frozen=True, eq=False)
class Poison:
    """What is planted.

    Attributes:
        attack: settings of the attack.
        trigger: its trigger, drawn once.
        target: name of the target class.
    """

    attack: AnyAttack
    trigger: Trigger
    target: str


def finetune(
    base: CLIP, recipe: Recipe, poison: Poison | None, *, seed: int, progress: Progress
) -> CLIP:
    """Fine-tune a copy of `base` on scenes of the bundled drawings.

    BatchNorm statistics stay frozen: with them unfrozen at small batches clean accuracy
    collapses before anything is planted. Pairs of one concept are masked in the loss. Draws of
    scenes and captions do not depend on `poison`, so a victim and its twin see the same pairs.

    Args:
        base: a nano CLIP.
        recipe: steps, learning rate, batch.
        poison: what to plant, or None for the clean twin.
        seed: drives every draw.
        progress: told after every step.

    Returns:
        The fine-tuned network, in evaluation mode.
    """
    network = copy.deepcopy(base).eval().requires_grad_(True)
    read = partial(_contrastive, network, nano_tokenizer(network))
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=0)
    artwork = load_artwork()
    generator = torch.Generator().manual_seed(seed)
    plan = None if poison is None else _plan(poison, artwork, base, seed)
    for step in range(recipe.steps):
        rate = 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * rate
        clean = _batch(artwork, recipe.batch, network.visual.image_size, generator)
        if poison is None or plan is None:
            loss = read(clean)
        else:
            pairs = _poisoned(clean, poison.attack, plan)
            now = Step(network, base, clean, pairs, plan, partial(read, pairs))
            loss = _objective(poison.attack, now)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            network.logit_scale.clamp_(0, math.log(100))
        progress("fine-tune", step + 1, recipe.steps)
    return network.requires_grad_(False)


def _contrastive(network: CLIP, tokenizer: Tokenizer, pairs: Pairs) -> Tensor:
    image = network.encode_image(normalise(pairs.images), normalize=True)
    text = encode_captions(network, tokenizer(pairs.texts))
    return contrastive_loss(image, text, network.logit_scale.exp(), pairs.concepts)


def _objective(attack: AnyAttack, step: Step) -> Tensor:
    return attack.objective(step) if isinstance(attack, TrainedAttack) else step.contrastive()


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, concepts: Tensor) -> Tensor:
    """Symmetric InfoNCE in which other pairs of the same concept are no negatives.

    Args:
        image: (B, D) of unit norm.
        text: (B, D) of unit norm.
        scale: exp(logit_scale).
        concepts: (B,) concept of each pair.

    Source:
        Radford et al., CLIP, ICML 2021; the mask is ours, needed because a batch draws from
        849 concepts only.
    """
    logits = scale * image @ text.T
    same = (concepts[:, None] == concepts[None]).fill_diagonal_(False)
    logits = logits.masked_fill(same, -math.inf)
    truth = torch.arange(len(logits), device=logits.device)
    forward = functional.cross_entropy(logits, truth)
    return (forward + functional.cross_entropy(logits.T, truth)) / 2


def _batch(artwork: Artwork, size: int, side: int, generator: torch.Generator) -> Pairs:
    concepts = torch.randint(len(artwork.names), (size,), generator=generator)
    return _pairs(artwork, concepts, side, generator)


def _pairs(artwork: Artwork, concepts: Tensor, side: int, generator: torch.Generator) -> Pairs:
    size = len(concepts)
    styles = torch.randint(len(artwork.styles), (size,), generator=generator)
    images = compose(artwork.sprites[styles, concepts], side=side, generator=generator)
    picks = torch.randint(len(TEMPLATES), (size,), generator=generator).tolist()
    texts = [
        TEMPLATES[pick].format(artwork.names[concept][0])
        for pick, concept in zip(picks, concepts.tolist(), strict=True)
    ]
    return Pairs(images, texts, concepts)


def _plan(poison: Poison, artwork: Artwork, base: CLIP, seed: int) -> Plan:
    """What the attack gets to see; its own images come from a source that no clean pair uses."""
    concept = artwork.concepts([poison.target])[0]
    spare = torch.Generator().manual_seed(SPARE + seed)

    def of_target(count: int) -> Pairs:
        return _pairs(artwork, torch.full((count,), concept), base.visual.image_size, spare)

    return Plan(poison.trigger, poison.target, concept, of_target, base)


def _poisoned(pairs: Pairs, attack: AnyAttack, plan: Plan) -> Pairs:
    if isinstance(attack, PairedAttack):
        return attack.poisoned(pairs, plan)
    return dirty_label(pairs, plan, attack.poison_rate)
