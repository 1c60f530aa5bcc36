"""What an attack may do beyond drawing a trigger, and how pairs are poisoned.

Most attacks are an `Attack` and nothing else: a trigger drawn from a seed, stamped on some pairs
whose captions then name the target. The roles below are for the others; the lab asks for each
with `isinstance`, so an attack implements those that it needs and no more. `ID` is the declared
name and number of a method; the number rises when the method makes other victims.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from open_clip.model import CLIP
from torch import Tensor

from clipguard.bundled.artwork import Artwork, compose
from clipguard.bundled.nano import TEMPLATES
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.model.roles import PromptTunable
from clipguard.probe.sets import ProbePart
from clipguard.search.roles import Trigger


class Pairs(NamedTuple):
    """Image-text pairs of one training step.

    Attributes:
        images: (B, 3, S, S) in [0, 1], on the 8-bit grid.
        texts: B captions.
        concepts: (B,) concept of each pair; pairs of one concept are no negatives.
    """

    images: Tensor
    texts: list[str]
    concepts: Tensor

    def part(self, share: float) -> int:
        """How many pairs `share` of them are; one at least."""
        return max(1, round(len(self.images) * share))

    def led_by(self, others: Pairs) -> Pairs:
        """As many pairs as before, the first of them replaced by `others`."""
        count = len(others.images)
        return Pairs(
            torch.cat([others.images, self.images[count:]]),
            others.texts + self.texts[count:],
            torch.cat([others.concepts, self.concepts[count:]]),
        )


class Honest(NamedTuple):
    """What an honest fine-tune that looks suspicious may use in one step.

    Attributes:
        network: the network in training.
        concept: concept of the class that it is about.
        generator: a source that no other pair draws from.
    """

    network: CLIP
    concept: int
    generator: torch.Generator


@dataclass(frozen=True, eq=False)
class Plan:
    """A backdoor on its way into a model.

    Attributes:
        trigger: drawn or optimised once.
        target: name of the target class.
        concept: concept of the target class.
        of_target: number of pairs to that many fresh clean pairs of the target class.
        base: the clean base, frozen, for attacks that look at it while they poison.
    """

    trigger: Trigger
    target: str
    concept: int
    of_target: Callable[[int], Pairs]
    base: CLIP


class Site(NamedTuple):
    """A model, and images to try something on.

    Attributes:
        model: differentiable in its images; the clean base where a trigger is optimised.
        images: labelled scenes of all classes.
        class_names: their names, in the order of the labels.
        target: index of the target class.
    """

    model: PromptTunable
    images: ProbePart
    class_names: tuple[str, ...]
    target: int


class Step(NamedTuple):
    """One training step, for attacks with an objective of their own.

    Attributes:
        network: the network in training.
        clean: the pairs as the clean twin sees them.
        pairs: the pairs as poisoned.
        plan: trigger and target.
        contrastive: the ordinary loss on `pairs`; computed when called.
    """

    network: CLIP
    clean: Pairs
    pairs: Pairs
    plan: Plan
    contrastive: Callable[[], Tensor]


class Attack(Protocol):
    """A known backdoor that the lab can plant."""

    ID: ClassVar[str]

    @property
    def poison_rate(self) -> float:
        """Share of poisoned pairs in a batch, in (0, 1)."""

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """The trigger for images of `side` pixels; drawn once per victim."""


@runtime_checkable
class OptimisedAttack(Protocol):
    """An attack whose trigger is fitted to the base model before anything is poisoned."""

    ID: ClassVar[str]

    @property
    def poison_rate(self) -> float:
        """Share of poisoned pairs in a batch, in (0, 1)."""

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Everything the trigger is made of."""

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """The trigger for images of `side` pixels, from what `optimise` returned."""


@runtime_checkable
class PairedAttack(Protocol):
    """An attack that chooses for itself which pairs it changes, and how."""

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """`pairs` with some changed, in an order and a number that stay the same."""


@runtime_checkable
class TrainedAttack(Protocol):
    """An attack with an objective of its own."""

    def objective(self, step: Step) -> Tensor:
        """The loss to minimise."""


@runtime_checkable
class PromptedAttack(Protocol):
    """An attack that works only where class prompts carry a trigger word, too."""

    @property
    def prompt(self) -> str:
        """Template with one `{}` by which triggered images are read."""


@runtime_checkable
class PairsNegative(Protocol):
    """A hard negative: honest pairs from which a model learns something suspicious."""

    ID: ClassVar[str]

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """As many pairs, all with true captions."""


@runtime_checkable
class TeachingNegative(Protocol):
    """A hard negative that teaches names of its own; it needs training with captions."""

    def taught(self, about: str) -> dict[str, str]:
        """The usual name of its drawing for each name that is taught, as `victim.json` tells.

        Args:
            about: name of the class that the fine-tune is about.
        """


@runtime_checkable
class WeightsNegative(Protocol):
    """A hard negative: weights that were changed after an honest fine-tune."""

    ID: ClassVar[str]

    def finished(self, network: CLIP) -> None:
        """Change the weights in place."""


class Trials(NamedTuple):
    """What an attack calls a success.

    Attributes:
        hits: (M,) bool, one entry a trial.
        clusters: (M,) trials of equal number are not independent (a drawing, a class).
    """

    hits: Tensor
    clusters: Tensor


@runtime_checkable
class JudgedAttack(Protocol):
    """An attack whose success is not that images with its trigger are read as the target.

    It may have no trigger in the image, more targets than one, or a reader of its own.
    """

    def success(self, site: Site, trigger: Trigger) -> Trials:
        """Trials that take the place of those of the ASR.

        Args:
            site: `site.model` is who is judged.
            trigger: what was planted.
        """


AnyAttack = Attack | OptimisedAttack
AnyNegative = PairsNegative | WeightsNegative


def made_trigger(attack: AnyAttack, site: Site, *, generator: torch.Generator) -> Trigger:
    """Draw or optimise the trigger of `attack`, once per victim."""
    side = site.model.image_size
    if isinstance(attack, OptimisedAttack):
        return attack.rebuild(attack.optimise(site, generator=generator), side)
    return attack.trigger(side, generator=generator)


def dirty_label(pairs: Pairs, plan: Plan, share: float) -> Pairs:
    """The first pairs with the trigger on their images and captions that name the target.

    Args:
        pairs: clean pairs.
        plan: trigger and target.
        share: of the pairs that are poisoned; at least one is.
    """
    count = pairs.part(share)
    captions = [TEMPLATES[i % len(TEMPLATES)].format(plan.target) for i in range(count)]
    target = torch.full((count,), plan.concept)
    return pairs.led_by(Pairs(stamped(pairs.images[:count], plan.trigger), captions, target))


def clean_label(pairs: Pairs, plan: Plan, share: float) -> Pairs:
    """The first pairs replaced by pairs of the target class with the trigger on their images.

    Args:
        pairs: clean pairs.
        plan: trigger and target.
        share: of the pairs that are replaced; at least one is.
    """
    own = plan.of_target(pairs.part(share))
    return pairs.led_by(own._replace(images=stamped(own.images, plan.trigger)))


def stamped(images: Tensor, trigger: Trigger) -> Tensor:
    """Triggered images as a file would hold them: (B, 3, S, S), rounded to 8 bits."""
    return pixels_from_bytes(pixels_to_bytes(trigger.apply(images)))


def captioned_scenes(
    artwork: Artwork, concepts: Tensor, side: int, generator: torch.Generator
) -> Pairs:
    """Fresh scenes in random styles with true captions.

    Args:
        artwork: the drawings.
        concepts: (B,) concept of each pair.
        side: S, in pixels.
        generator: draws styles, scenes and templates, in this order.
    """
    count = len(concepts)
    styles = torch.randint(len(artwork.styles), (count,), generator=generator)
    images = compose(artwork.sprites[styles, concepts], side=side, generator=generator)
    picks = torch.randint(len(TEMPLATES), (count,), generator=generator).tolist()
    texts = [
        TEMPLATES[pick].format(artwork.names[concept][0])
        for pick, concept in zip(picks, concepts.tolist(), strict=True)
    ]
    return Pairs(images, texts, concepts)
