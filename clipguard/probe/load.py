"""Clean images in three disjoint parts: from the bundled drawings or from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
    has_control_characters,
    imagenet_class_names,
    read_class_names,
    read_templates,
)
from clipguard.probe.images import IMAGE_SUFFIXES, class_names_digest, load_image
from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import BUNDLED, ProbePart, ProbeSet
from clipguard.text_safety import safe_text

TEMPLATE = "a photo of a {}."
FITS = 0.5
IMAGENET = "imagenet"
MAX_IMAGES = 2000
class_list_digest = class_names_digest


@dataclass(frozen=True, kw_only=True)
class ProbeSource:
    """Where images, class names and templates come from; None is the bundled default.

    Attributes:
        images: folder with one sub-folder of images per class, or with images only.
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


def load_probe(model: OpenClipModel, source: ProbeSource, scenes: Scenes, *, seed: int) -> ProbeSet:
    """The probe set that `source` asks for, with the further target names; see `_images_of`."""
    further: tuple[str, ...] = ()
    if source.vocabulary is not None:
        listed = str(source.vocabulary) != IMAGENET
        further = (read_class_names(source.vocabulary) if listed else imagenet_class_names())[0]
    probe = _images_of(model, source, scenes, seed)
    new = tuple(name for name in further if name not in probe.class_names)
    if further and not new:
        raise UsageError("every name of the vocabulary is a class already; give further names")
    return replace(probe, further=new)


def _images_of(model: OpenClipModel, source: ProbeSource, scenes: Scenes, seed: int) -> ProbeSet:
    """Images and class list that `source` asks for.

    Without any source the bundled scenes and class list are used if the model knows them (it
    reads at least half of the scenes rightly); for any other model the class list is open_clip's
    ImageNet names and the bundled scenes serve without labels.

    Args:
        model: decides the image size, and whether the bundled class list fits.
        source: what was given.
        scenes: size of the bundled probe set.
        seed: draws scenes and splits.

    Raises:
        UsageError: unreadable files, no images, an empty class list.
    """
    templates = read_templates(source.templates) if source.templates else (TEMPLATE,)
    given = read_class_names(source.class_names) if source.class_names else None
    if given is not None:
        _require_two(given[0])
    if source.images is not None:
        return _folder_probe(source.images, model, given, templates, seed)
    probe = replace(bundled_probe(model.image_size, scenes, seed=seed), templates=templates)
    if given is None:
        classes = class_embeddings(model, probe.class_names, templates)
        look = probe.select.first(len(probe.class_names))
        right = (classify(embed(model, look), classes) == look.labels).float().mean().item()
        if right >= FITS:
            return probe
        names, warnings = imagenet_class_names()
        told = (
            f"clean accuracy is {right:.0%} on a look at {len(look)} bundled drawings, too little "
            "for their class list; the names of ImageNet stand in, and no label is known"
        )
        given = names, (*warnings, told)
    return _with_classes(probe, *given)


def _require_two(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise UsageError("at least two classes are needed; name them with --classnames FILE")


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


def _folder_probe(
    folder: Path,
    model: OpenClipModel,
    given: tuple[tuple[str, ...], tuple[str, ...]] | None,
    templates: tuple[str, ...],
    seed: int,
) -> ProbeSet:
    if not folder.is_dir():
        raise UsageError(f"no folder of probe images at {safe_text(folder)}")
    files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
    flat = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files and not flat:
        raise UsageError(f"no images in {safe_text(folder)}; expected {safe_text(folder)}/CLASS/*")
    names, warnings = given or (_folder_names(files), ())
    _require_two(names)
    found = files or flat
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found), generator=generator)[:MAX_IMAGES].tolist()
    images, read = _read_images([found[i] for i in order], model)
    skipped = len(order) - len(read)
    if not read:
        raise UsageError(f"none of {skipped} images in {safe_text(folder)} could be read")
    labels = _folder_labels(read, names) if files else [-1] * len(read)
    parts = _thirds(images, torch.tensor(labels))
    if len(found) > MAX_IMAGES:
        warnings = (*warnings, f"drew {MAX_IMAGES} of {len(found)} images and left out the rest")
    if skipped:
        warnings = (*warnings, f"skipped {skipped} images that could not be read")
    source = f"{safe_text(folder.name)}:{_images_digest(images, labels)}"
    return ProbeSet(*parts, names, templates, source, skipped, warnings)


def _folder_names(files: Sequence[Path]) -> tuple[str, ...]:
    names = tuple(sorted({path.parent.name for path in files}))
    for name in names:
        if has_control_characters(name):
            raise UsageError(
                f"folder '{safe_text(name)}': expected a class name, got one with control "
                "characters; rename it, or name the classes with --classnames FILE"
            )
    return names


def _read_images(paths: Sequence[Path], model: OpenClipModel) -> tuple[Tensor, list[Path]]:
    """Images (N, 3, S, S) uint8 by the model's own resize rule, and the N files that had one."""
    side, rule = model.image_size, model.preprocess
    rows, read = [torch.empty(0, 3, side, side, dtype=torch.uint8)], []
    for path in paths:
        try:
            pixels = load_image(
                path, side, resize_mode=rule.resize_mode, interpolation=rule.interpolation
            )
        except UsageError:
            continue
        rows.append(pixels_to_bytes(torch.from_numpy(pixels))[None])
        read.append(path)
    return torch.cat(rows), read


def _folder_labels(paths: Sequence[Path], names: Sequence[str]) -> list[int]:
    """Class index of each file's folder, or without regard to case, or -1."""
    folded = {name.casefold(): i for i, name in reversed(list(enumerate(names)))}
    known = folded | {name: i for i, name in enumerate(names)}
    folders = [path.parent.name for path in paths]
    return [known.get(name, known.get(name.casefold(), -1)) for name in folders]


def _images_digest(images: Tensor, labels: Sequence[int]) -> str:
    """12 hex digits that name the images and their classes, whatever their order."""
    pairs = zip(images, labels, strict=True)
    digests = sorted(
        hashlib.sha256(image.numpy().tobytes() + f"{label}".encode()).digest()
        for image, label in pairs
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()[:12]


def _thirds(images: Tensor, labels: Tensor) -> tuple[ProbePart, ProbePart, ProbePart]:
    """Split shuffled images so that every class goes to all parts as evenly as it can."""
    order = torch.argsort(labels, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))  # dealt out class by class, like cards
    drawings = torch.arange(len(labels))
    first, second, third = (rank % 3 == i for i in (1, 2, 0))
    return (
        ProbePart(images[first], labels[first], drawings[first]),
        ProbePart(images[second], labels[second], drawings[second]),
        ProbePart(images[third], labels[third], drawings[third]),
    )
