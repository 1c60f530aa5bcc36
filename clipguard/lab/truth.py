"""What the lab knows and a scan does not: rates under the true trigger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clipguard.bundled.artwork import compose, load_artwork
from clipguard.bundled.nano import class_names
from clipguard.lab.roles import AnyAttack, JudgedAttack, PromptedAttack, Site
from clipguard.model.pixels import pixels_to_bytes
from clipguard.model.prompts import class_embeddings
from clipguard.model.roles import ClipModel, PromptTunable
from clipguard.probe.intervals import paired_bootstrap
from clipguard.probe.load import TEMPLATE
from clipguard.probe.rates import classify, embed, rate, rates
from clipguard.probe.sets import ProbePart
from clipguard.record import Rates
from clipguard.search.roles import Trigger

SIDE = 64
OFFSET = 500_000_000


class Loss(NamedTuple):
    """Clean accuracy of the twin minus that of the victim on the same images, as a share."""

    value: float
    low: float
    high: float


class Views(NamedTuple):
    """Images and how one model embeds them: `clean` and `triggered` are (N, D) of unit norm."""

    images: ProbePart
    clean: Tensor
    triggered: Tensor


def lab_images(
    *,
    held_out: bool,
    seed: int,
    scenes: int,
    side: int = SIDE,
    names: Sequence[str] | None = None,
) -> ProbePart:
    """Fresh labelled scenes of every drawing of the 100 bundled classes, or of others.

    Args:
        held_out: the held-out style instead of the three seen ones.
        seed: draws the scenes; shifted away from every seed that a scan uses.
        scenes: scenes per drawing; three times as many in the held-out style, which has a
            third of the drawings.
        side: S, side of the images in pixels.
        names: other classes, each the usual name of a drawing.

    Raises:
        ValueError: a name that no drawing has.
    """
    artwork, names = load_artwork(held_out), names or class_names()
    concepts = torch.tensor(artwork.concepts(names))
    generator = torch.Generator().manual_seed(OFFSET + seed)
    images, drawings = [], []
    for style in range(len(artwork.styles)):
        for _ in range(scenes * (3 if held_out else 1)):
            sprites = artwork.sprites[style, concepts]
            images.append(pixels_to_bytes(compose(sprites, side=side, generator=generator)))
            drawings.append(style * len(artwork.names) + concepts)
    labels = torch.arange(len(names)).repeat(len(images))
    return ProbePart(torch.cat(images), labels, torch.cat(drawings))


def zero_shot(
    model: ClipModel, template: str = TEMPLATE, names: Sequence[str] | None = None
) -> Tensor:
    """(C, D) embeddings of the bundled classes, or of others, with one template."""
    return class_embeddings(model, names or class_names(), (template,))


def look(model: ClipModel, images: ProbePart, trigger: Trigger | None) -> Views:
    """Embed images as they are and, where there is a trigger, with it."""
    clean = embed(model, images)
    return Views(images, clean, clean if trigger is None else embed(model, images, trigger.apply))


def truth_rates(views: Views, head: Tensor, target: int) -> Rates:
    """CA, ASR and PA under the true trigger.

    Args:
        views: what a victim or a twin sees.
        head: (C, D) class embeddings to read with.
        target: class index that ASR counts.
    """
    generator = torch.Generator().manual_seed(0)
    features = (views.clean, views.triggered)
    return rates(features, head, views.images, target, generator=generator)


def attack_rates(
    attack: AnyAttack, model: PromptTunable, views: Views, trigger: Trigger, target: int
) -> Rates:
    """CA, ASR and PA by the attack's own measure of success, for a zero-shot classifier.

    Args:
        attack: what was planted; where it needs a trigger word, triggered images are read with
            prompts that carry it.
        model: victim or twin.
        views: what it sees.
        trigger: what was planted.
        target: class index.
    """
    found = truth_rates(views, zero_shot(model), target)
    if isinstance(attack, PromptedAttack):
        read = truth_rates(views, zero_shot(model, attack.prompt), target)
        found = found.model_copy(
            update={"asr": read.asr, "poisoned_accuracy": read.poisoned_accuracy}
        )
    if isinstance(attack, JudgedAttack):
        trials = attack.success(Site(model, views.images, class_names(), target), trigger)
        generator = torch.Generator().manual_seed(0)
        success = rate(trials.hits, trials.clusters, generator)
        if success is None:
            raise ValueError("an attack without trials cannot be judged")
        found = found.model_copy(update={"asr": success})
    return found


def paired_loss(mine: Views, head: Tensor, twins: Views, twin_head: Tensor) -> Loss:
    """Clean accuracy that a victim, read with `head`, lost against its twin on the same images."""
    labels = mine.images.labels
    right, better = (
        classify(views.clean, classes) == labels
        for views, classes in ((mine, head), (twins, twin_head))
    )
    generator = torch.Generator().manual_seed(0)
    return Loss(*paired_bootstrap(better, right, mine.images.drawings, generator=generator))


class Seen(NamedTuple):
    """What one model makes of images, embedded once for all that is asked.

    Attributes:
        model: victim or twin.
        views: the images as it sees them.
        head: (C, D) its zero-shot classifier.
        target: class index that ASR counts.
    """

    model: PromptTunable
    views: Views
    head: Tensor
    target: int

    @classmethod
    def of(
        cls, model: PromptTunable, images: ProbePart, trigger: Trigger | None, target: int
    ) -> Seen:
        """Look once."""
        return cls(model, look(model, images, trigger), zero_shot(model), target)

    def attacked(self, attack: AnyAttack, trigger: Trigger) -> Rates:
        """`attack_rates`."""
        return attack_rates(attack, self.model, self.views, trigger, self.target)

    def clean(self) -> Rates:
        """As under a trigger that does nothing: the ASR is the share of false targets."""
        untouched = self.views._replace(triggered=self.views.clean)
        return truth_rates(untouched, self.head, self.target)

    def loss_against(self, twin: Seen) -> Loss:
        """`paired_loss`."""
        return paired_loss(self.views, self.head, twin.views, twin.head)
