"""Clean images in three disjoint parts: from the bundled drawings or from a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from clipguard.bundled.artwork import Artwork, compose, load_artwork
from clipguard.bundled.nano import class_names
from clipguard.errors import UsageError
from clipguard.model.open_clip import OpenClipModel
from clipguard.model.pixels import pixels_to_bytes
from clipguard.model.prompts import (
    class_embeddings,
    imagenet_class_names,
    read_class_names,
    read_folder_names,
    read_templates,
    spoken,
)
from clipguard.probe.given import ClassList, given_probe, require_two
from clipguard.probe.images import class_names_digest
from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import BUNDLED, ProbePart, ProbeSet

TEMPLATE = "a photo of a {}."
FITS = 0.5
IMAGENET = "imagenet"
class_list_digest = class_names_digest


@dataclass(frozen=True, kw_only=True)
class ProbeSource:
    """Where images, class names and templates come from; None is the bundled default.

    Attributes:
        images: where the images lie, see `items_at`.
        class_names: class list file.
        templates: template file.
        vocabulary: file with further target names, or `imagenet`.
    """

    images: Path | None = None
    class_names: Path | None = None
    templates: Path | None = None
    vocabulary: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """How many scenes of each drawing go into each part of the bundled probe set."""

    optimise: int = 8
    select: int = 2
    measure: int = 4


FURTHER = 4
"""Scenes of every drawing of other classes that serve purification without labels."""


def bundled_probe(side: int, scenes: Scenes, *, seed: int) -> ProbeSet:
    """Labelled scenes of the 100 bundled classes.

    Every class has one drawing per style, and each style of a class goes into another part, so
    the three parts share no drawing and each part knows every class.

    Args:
        side: S, in pixels.
        scenes: scenes per drawing and part.
        seed: draws the split and the scenes.
    """
    artwork, names = load_artwork(), class_names()
    generator = torch.Generator().manual_seed(seed)
    concepts = torch.tensor(artwork.concepts(names))
    order = torch.rand(len(names), len(artwork.styles), generator=generator).argsort(dim=1)
    labels = torch.arange(len(names))

    def part(column: int, repeats: int) -> ProbePart:
        styles = order[:, column]
        rows = [
            pixels_to_bytes(
                compose(artwork.sprites[styles, concepts], side=side, generator=generator)
            )
            for _ in range(repeats)
        ]
        drawings = styles * len(artwork.names) + concepts
        return ProbePart(torch.cat(rows), labels.repeat(repeats), drawings.repeat(repeats))

    return ProbeSet(
        optimise=part(0, scenes.optimise),
        select=part(1, scenes.select),
        measure=part(2, scenes.measure),
        class_names=names,
        templates=(TEMPLATE,),
        source=BUNDLED,
        unlabelled=lru_cache(maxsize=1)(lambda: _further(artwork, concepts, side, generator)),
    )


def _further(artwork: Artwork, classes: Tensor, side: int, generator: torch.Generator) -> ProbePart:
    """Scenes of the drawings that belong to none of `classes`, each in one random style."""
    others = torch.ones(len(artwork.names), dtype=torch.bool)
    others[classes] = False
    concepts = others.nonzero().flatten().repeat(FURTHER)
    styles = torch.randint(len(artwork.styles), (len(concepts),), generator=generator)
    images = torch.empty(len(concepts), 3, side, side, dtype=torch.uint8)
    for start in range(0, len(concepts), 256):
        c = slice(start, start + 256)
        sprites = artwork.sprites[styles[c], concepts[c]]
        images[c] = pixels_to_bytes(compose(sprites, side=side, generator=generator))
    drawings = styles * len(artwork.names) + concepts
    return ProbePart(images, torch.full_like(concepts, -1), drawings)


def load_probe(
    model: OpenClipModel,
    source: ProbeSource,
    scenes: Scenes,
    *,
    seed: int,
    look: int | None = None,
) -> ProbeSet:
    """The probe set that `source` asks for, with the further target names; see `_images_of`.

    Args:
        model: that it is for.
        source: what was given.
        scenes: size of the bundled probe set.
        seed: draws scenes and splits.
        look: most images that tell whether the bundled class list fits; None is one a class.
    """
    further: tuple[str, ...] = ()
    if source.vocabulary is not None:
        listed = str(source.vocabulary) != IMAGENET
        further = (read_class_names(source.vocabulary) if listed else imagenet_class_names())[0]
    probe = _images_of(model, source, scenes, seed, look)
    asked = {spoken(name) for name in probe.class_names}
    new = tuple(name for name in further if spoken(name) not in asked)
    if further and not new:
        raise UsageError("every name of the vocabulary is a class already; give further names")
    return replace(probe, further=new)


def _images_of(
    model: OpenClipModel, source: ProbeSource, scenes: Scenes, seed: int, most: int | None
) -> ProbeSet:
    """Images and class list that `source` asks for.

    Without any source the bundled scenes and class list are used if the model knows them (it
    reads at least half of the scenes rightly); for any other model the class list is open_clip's
    ImageNet names and the bundled scenes serve without labels.

    Args:
        model: decides the image size, and whether the bundled class list fits.
        source: what was given.
        scenes: size of the bundled probe set.
        seed: draws scenes and splits.
        most: see `load_probe`.

    Raises:
        UsageError: unreadable files, no images, an empty class list.
    """
    templates = read_templates(source.templates) if source.templates else (TEMPLATE,)
    given = _listed(source.class_names) if source.class_names else None
    if given is not None:
        require_two(given.names)
    if source.images is not None:
        return given_probe(source.images, model, given, templates, seed)
    probe = replace(bundled_probe(model.image_size, scenes, seed=seed), templates=templates)
    if given is None:
        classes = class_embeddings(model, probe.class_names, templates)
        look = probe.select.first(most or len(probe.class_names))
        right = (classify(embed(model, look), classes) == look.labels).float().mean().item()
        if right >= FITS:
            return probe
        names, warnings = imagenet_class_names()
        told = (
            f"clean accuracy is {right:.0%} on a look at {len(look)} bundled drawings, too little "
            "for their class list; the names of ImageNet stand in, and no label is known"
        )
        given = ClassList(names, (*warnings, told))
    return _with_classes(probe, given.names, given.warnings)


def _listed(path: Path) -> ClassList:
    names, warnings = read_class_names(path)
    return ClassList(names, warnings, read_folder_names(path))


def _with_classes(probe: ProbeSet, names: tuple[str, ...], warnings: tuple[str, ...]) -> ProbeSet:
    """The same images under another class list; labels survive only if every class does."""
    known = {name: i for i, name in enumerate(names)}
    order = [known.get(name, -1) for name in probe.class_names]
    table = torch.tensor(order if min(order) >= 0 else [-1] * len(order))

    def moved(part: ProbePart) -> ProbePart:
        return replace(part, labels=table[part.labels])

    return replace(
        probe,
        optimise=moved(probe.optimise),
        select=moved(probe.select),
        measure=moved(probe.measure),
        class_names=names,
        warnings=warnings,
    )
