"""What the lab knows and a scan does not: rates under the true trigger."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clipguard.artwork import compose, load_artwork
from clipguard.measure import classify, embed, rate, rates
from clipguard.nano import class_names
from clipguard.pixels import to_bytes
from clipguard.poisoning import AnyAttack, JudgedAttack, PromptedAttack, Site
from clipguard.probe import TEMPLATE
from clipguard.prompts import class_embeddings
from clipguard.record import Rates
from clipguard.stats import paired_bootstrap
from clipguard.types import ClipModel, ProbePart, PromptTunable, Trigger

SIDE = 64
OFFSET = 500_000_000


class Loss(NamedTuple):
    """Clean accuracy of the twin minus that of the victim on the same images, as a share."""

    value: float
    low: float
    high: float


def lab_images(*, held_out: bool, seed: int, scenes: int, side: int = SIDE) -> ProbePart:
    """Fresh labelled scenes of every drawing of the 100 classes.

    Args:
        held_out: the held-out style instead of the three seen ones.
        seed: draws the scenes; shifted away from every seed that a scan uses.
        scenes: scenes per drawing; three times as many in the held-out style, which has a
            third of the drawings.
        side: S, side of the images in pixels.
    """
    artwork, names = load_artwork(held_out), class_names()
    concepts = torch.tensor(artwork.concepts(names))
    generator = torch.Generator().manual_seed(OFFSET + seed)
    images, drawings = [], []
    for style in range(len(artwork.styles)):
        for _ in range(scenes * (3 if held_out else 1)):
            sprites = artwork.sprites[style, concepts]
            images.append(to_bytes(compose(sprites, side=side, generator=generator)))
            drawings.append(style * len(artwork.names) + concepts)
    labels = torch.arange(len(names)).repeat(len(images))
    return ProbePart(torch.cat(images), labels, torch.cat(drawings))


def zero_shot(model: ClipModel, template: str = TEMPLATE) -> Tensor:
    """(C, D) embeddings of the bundled classes with one template."""
    return class_embeddings(model, class_names(), (template,))


def truth_rates(
    model: ClipModel,
    images: ProbePart,
    trigger: Trigger | None,
    target: int,
    classes: Tensor | None = None,
) -> Rates:
    """CA, ASR and PA under the true trigger.

    Args:
        model: victim or twin.
        images: lab images.
        trigger: what was planted; None leaves the images as they are.
        target: class index that ASR counts.
        classes: (C, D) head to read with; None for the zero-shot classifier.
    """
    clean = embed(model, images)
    triggered = clean if trigger is None else embed(model, images, trigger.apply)
    head = zero_shot(model) if classes is None else classes
    generator = torch.Generator().manual_seed(0)
    return rates((clean, triggered), head, images, target, generator=generator)


def attack_rates(
    attack: AnyAttack, model: PromptTunable, images: ProbePart, trigger: Trigger, target: int
) -> Rates:
    """CA, ASR and PA by the attack's own measure of success, for a zero-shot classifier.

    Args:
        attack: what was planted; where it needs a trigger word, triggered images are read with
            prompts that carry it.
        model: victim or twin.
        images: lab images.
        trigger: what was planted.
        target: class index.
    """
    found = truth_rates(model, images, trigger, target)
    if isinstance(attack, PromptedAttack):
        read = truth_rates(model, images, trigger, target, zero_shot(model, attack.prompt))
        found = read.model_copy(
            update={
                "clean_accuracy": found.clean_accuracy,
                "target_accuracy": found.target_accuracy,
            }
        )
    if isinstance(attack, JudgedAttack):
        trials = attack.success(Site(model, images, class_names(), target), trigger)
        generator = torch.Generator().manual_seed(0)
        success = rate(trials.hits, trials.clusters, generator)
        if success is None:
            raise ValueError("an attack without trials cannot be judged")
        found = found.model_copy(update={"asr": success})
    return found


def paired_loss(
    model: ClipModel, twin: ClipModel, images: ProbePart, classes: Tensor | None = None
) -> Loss:
    """Clean accuracy that `model` lost against its clean twin, on the same images.

    Args:
        model: victim.
        twin: its clean twin.
        images: lab images.
        classes: (C, D) head that the victim is read with; None for its zero-shot classifier.
    """
    head = zero_shot(model) if classes is None else classes
    right = classify(embed(model, images), head) == images.labels
    better = classify(embed(twin, images), zero_shot(twin)) == images.labels
    generator = torch.Generator().manual_seed(0)
    return Loss(*paired_bootstrap(better, right, images.drawings, generator=generator))
