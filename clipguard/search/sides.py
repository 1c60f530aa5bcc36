"""The two models of a comparison: how each reads images of the suspect's size.

A trigger lives on the pixel grid of the suspect. A reference of another size sees the triggered
image resized.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.model.prompts import class_embeddings, imagenet_class_names
from clipguard.model.roles import ClipModel
from clipguard.probe.sets import ProbeSet, Subject

PIXELS_AT_ONCE = 64 * 64 * 64
"""Pixels that one pass on a CPU holds; more fills memory and is slower there."""
GPU_TIMES = 128


@dataclass
class Passes:
    """How often an image went through a model.

    Attributes:
        both: forward and backward.
        forward: forward only.
    """

    both: int = 0
    forward: int = 0

    @property
    def counted(self) -> float:
        """In passes forward and backward; one that is only forward costs half."""
        return self.both + self.forward / 2


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models, and how it reads images of the suspect's size.

    Attributes:
        model: the model.
        classes: (C, D) unit embeddings, by its own text tower.
        temperature: of the readings, in units of cosine.
        passes: counts what it costs.
    """

    model: ClipModel
    classes: Tensor
    temperature: float = 0.05
    passes: Passes = field(default_factory=Passes)

    def logits(self, images: Tensor) -> Tensor:
        """Readings (B, C) of images (B, 3, S, S) on the model's device."""
        self.passes.both += len(images) if torch.is_grad_enabled() else 0
        self.passes.forward += 0 if torch.is_grad_enabled() else len(images)
        side = self.model.image_size
        if images.shape[-1] != side:
            images = functional.interpolate(
                images, (side, side), mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 1)
        return self.model.encode_image(images) @ self.classes.T / self.temperature

    def rows(self, images: int, side: int) -> int:
        """How many triggers go through at once, on `images` images of `side` pixels each."""
        side = max(side, self.model.image_size)
        room = PIXELS_AT_ONCE * (GPU_TIMES if self.model.device.type == "cuda" else 1)
        return max(1, room // (images * side * side))


@dataclass(frozen=True, eq=False)
class Pair:
    """Suspect and reference, and the classes that both are asked about.

    Attributes:
        suspect: the model under audit.
        reference: the model that it is held against.
        probe: images of the suspect's size.
        names: C classes: the class list, then further ones.
        targets: the first of them that may be a target; the rest are there to compare with.
    """

    suspect: Side
    reference: Side
    probe: ProbeSet
    names: tuple[str, ...]
    targets: int

    @property
    def passes(self) -> Passes:
        """What both models cost so far."""
        one, other = self.suspect.passes, self.reference.passes
        return Passes(one.both + other.both, one.forward + other.forward)


def paired(subject: Subject, reference: ClipModel, *, least: int) -> Pair:
    """Both models with one list of classes: those of the probe set and its further targets.

    Args:
        subject: the suspect.
        reference: the model that it is held against.
        least: classes that there must be; names of ImageNet fill a shorter list.
    """
    probe = subject.probe
    asked = tuple(dict.fromkeys((*probe.class_names, *probe.further)))
    spare = [name for name in imagenet_class_names()[0] if name not in asked]
    names = (*asked, *spare[: max(0, least - len(asked))])
    suspect, other = (
        Side(model, class_embeddings(model, names, probe.templates))
        for model in (subject.model, reference)
    )
    return Pair(suspect, other, probe, names, len(asked))
