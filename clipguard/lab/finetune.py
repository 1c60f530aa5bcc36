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

from clipguard.bundled.artwork import Artwork, load_artwork
from clipguard.bundled.nano import TEMPLATES, encode_captions, image_side, nano_tokenizer, normalise
from clipguard.lab.roles import (
    AnyAttack,
    AnyNegative,
    Honest,
    PairedAttack,
    Pairs,
    PairsNegative,
    Plan,
    Step,
    TrainedAttack,
    WeightsNegative,
    captioned_scenes,
    dirty_label,
)
from clipguard.registry import require_known
from clipguard.search.roles import Progress, Trigger

SPARE = 900_000_000
CAPTIONS, CLASSES = OBJECTIVES = ("captions", "classes")
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a base is fine-tuned.

    Attributes:
        steps: optimiser steps.
        learning_rate: AdamW peak, decayed to zero along a cosine.
        batch: image-text pairs in a step.
        objective: `captions` trains both towers with the contrastive loss; `classes` keeps the text
            tower frozen and reads images as one of the names of all drawings.
    """

    steps: int = 120
    learning_rate: float = 5e-4
    batch: int = 128
    objective: str = "captions"


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


@dataclass(frozen=True, eq=False)
class Suspect:
    """An honest fine-tune that looks suspicious.

    Attributes:
        negative: settings of the hard negative.
        about: name of the class that it is about.
    """

    negative: AnyNegative
    about: str


def finetune(
    base: CLIP,
    recipe: Recipe,
    what: Poison | Suspect | None,
    *,
    seed: int,
    progress: Progress,
) -> CLIP:
    """Fine-tune a copy of `base` on scenes of the bundled drawings.

    BatchNorm statistics stay frozen: with them unfrozen at small batches clean accuracy
    collapses before anything is planted. Pairs of one concept are masked in the loss. Draws of
    scenes and captions do not depend on `what`, so a victim and its twin see the same pairs.

    Args:
        base: a nano CLIP.
        recipe: steps, learning rate, batch.
        what: a backdoor to plant, a hard negative, or None for the clean twin.
        seed: drives every draw.
        progress: told after every step.

    Returns:
        The fine-tuned network, in evaluation mode; its weights are float16 values held as
        float32, so that what is rated is what a file of half the size holds.
    """
    network = copy.deepcopy(base).eval()
    trained = network.visual if recipe.objective == CLASSES else network
    rate, weights = recipe.learning_rate, trained.requires_grad_(True).parameters()
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0, fused=True)
    artwork, side = load_artwork(), image_side(base)
    generator = torch.Generator().manual_seed(seed)
    read = _reader(network, recipe, artwork)
    loss_of = _loss(network, base, what, artwork, read, seed)
    for step in range(recipe.steps):
        decay = 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
        optimizer.param_groups[0]["lr"] = rate * decay
        loss = loss_of(_batch(artwork, recipe.batch, side, generator))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            network.logit_scale.clamp_(0, math.log(100))
        progress("fine-tune" if what else "fine-tune clean", step + 1, recipe.steps)
    network.requires_grad_(False)
    if isinstance(what, Suspect) and isinstance(what.negative, WeightsNegative):
        what.negative.finished(network)
    return network.half().float()


def _reader(network: CLIP, recipe: Recipe, artwork: Artwork) -> Callable[[Pairs], Tensor]:
    """The loss of a batch as it is.

    Raises:
        UsageError: unknown objective.
    """
    require_known(recipe.objective, OBJECTIVES, "objective")
    tokenizer = nano_tokenizer(network)
    if recipe.objective == CAPTIONS:
        return partial(_contrastive, network, tokenizer)
    names = [TEMPLATES[0].format(names[0]) for names in artwork.names]
    with torch.no_grad():
        texts = encode_captions(network, tokenizer(names))
    return partial(_classes, network, texts)


def _loss(
    network: CLIP,
    base: CLIP,
    what: Poison | Suspect | None,
    artwork: Artwork,
    read: Callable[[Pairs], Tensor],
    seed: int,
) -> Callable[[Pairs], Tensor]:
    """The loss of a batch of clean pairs; what is planted draws from a source of its own."""
    spare = torch.Generator().manual_seed(SPARE + seed)
    if isinstance(what, Poison):
        plan = _plan(what, artwork, base, spare)

        def poisoned(clean: Pairs) -> Tensor:
            pairs = _poisoned(clean, what.attack, plan, spare)
            return _objective(what.attack, Step(network, clean, pairs, plan, partial(read, pairs)))

        return poisoned
    if what is not None and isinstance(what.negative, PairsNegative):
        negative = what.negative
        about = Honest(network, artwork.concepts([what.about])[0], spare)
        return lambda clean: read(negative.altered(clean, about))
    return read


def _contrastive(network: CLIP, tokenizer: Tokenizer, pairs: Pairs) -> Tensor:
    image = network.encode_image(normalise(pairs.images), normalize=True)
    text = encode_captions(network, tokenizer(pairs.texts))
    return contrastive_loss(image, text, network.logit_scale.exp(), pairs.concepts)


def _classes(network: CLIP, texts: Tensor, pairs: Pairs) -> Tensor:
    """Cross-entropy over the frozen embeddings of all concepts (849, D)."""
    image = network.encode_image(normalise(pairs.images), normalize=True)
    return functional.cross_entropy(network.logit_scale.exp() * image @ texts.T, pairs.concepts)


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
    return captioned_scenes(artwork, concepts, side, generator)


def _plan(poison: Poison, artwork: Artwork, base: CLIP, spare: torch.Generator) -> Plan:
    concept, side = artwork.concepts([poison.target])[0], image_side(base)

    def of_target(count: int) -> Pairs:
        return captioned_scenes(artwork, torch.full((count,), concept), side, spare)

    return Plan(poison.trigger, poison.target, concept, of_target, base)


def _poisoned(pairs: Pairs, attack: AnyAttack, plan: Plan, spare: torch.Generator) -> Pairs:
    """A poisoned batch; at rates of less than a pair a batch, only as many batches are."""
    share = attack.poison_rate * len(pairs.images)
    if share < 1 and torch.rand((), generator=spare).item() >= share:
        return pairs
    if isinstance(attack, PairedAttack):
        return attack.poisoned(pairs, plan)
    return dirty_label(pairs, plan, attack.poison_rate)
