"""The probe set: clean images in three disjoint parts, and the class list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from clipguard.model.pixels import pixels_from_bytes
from clipguard.model.prompts import class_embeddings
from clipguard.model.roles import PromptTunable

BUNDLED = "bundled"


@dataclass(frozen=True, eq=False)
class ProbePart:
    """Images used for one purpose only.

    Attributes:
        images: (N, 3, S, S) uint8.
        labels: (N,) class indices; -1 where the true class is unknown or not in the list.
        drawings: (N,) id of the drawing or file behind each image.
    """

    images: Tensor
    labels: Tensor
    drawings: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.images)

    def first(self, count: int) -> ProbePart:
        """The first `count` images."""
        return self.rows(slice(count))

    def rows(self, index: Tensor | slice) -> ProbePart:
        """The images of `index`, numbers or a mask."""
        return ProbePart(self.images[index], self.labels[index], self.drawings[index])

    def pixels(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The images of `index`, (B, 3, S, S) in [0, 1]."""
        return pixels_from_bytes(self.images[index])


def joined(parts: Sequence[ProbePart]) -> ProbePart:
    """The images of all parts, one after the other."""
    return ProbePart(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.drawings for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Clean images in three disjoint parts, and the class list.

    Attributes:
        optimise: gradients of every search and of purification.
        select: best restart, candidate targets; purification tunes on it as well.
        measure: every published rate; nothing is ever tuned on it.
        unlabelled: makes further clean images of anything when they are first asked for, and gives
            the same again; purification and the canary see them, no search does.
        further: names that are no class and may be the target of a backdoor.
        class_names: C distinct names.
        templates: prompt templates, each with one `{}`.
        source: `bundled` or the name of a folder.
        skipped: images that could not be read.
        warnings: what was merged or left out.
    """

    optimise: ProbePart
    select: ProbePart
    measure: ProbePart
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    source: str
    skipped: int = 0
    warnings: tuple[str, ...] = ()
    unlabelled: Callable[[], ProbePart] | None = None
    further: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether true classes are known for the images that rates are measured on."""
        return bool((self.measure.labels >= 0).all())


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and the probe set that it is looked at with."""

    model: PromptTunable
    probe: ProbeSet

    @cached_property
    def classes(self) -> Tensor:
        """(C, D) unit class embeddings of the zero-shot classifier, computed once."""
        return class_embeddings(self.model, self.probe.class_names, self.probe.templates)
