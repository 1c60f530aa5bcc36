"""Clean images from a folder of somebody's: which folders are classes, which images are new."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.model.open_clip import OpenClipModel
from clipguard.model.pixels import pixels_to_bytes
from clipguard.model.prompts import has_control_characters, merge_duplicates, not_names, spoken
from clipguard.probe.images import IMAGE_SUFFIXES, load_image
from clipguard.probe.sets import ProbePart, ProbeSet
from clipguard.text_safety import safe_text

MAX_IMAGES = 2000
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
SHOWN = 5


class ClassList(NamedTuple):
    """Class names that were given.

    Attributes:
        names: C distinct names.
        warnings: what was merged.
        folders: class name of a folder that is called otherwise.
    """

    names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    folders: Mapping[str, str] = MappingProxyType({})


def folder_probe(
    folder: Path,
    model: OpenClipModel,
    given: ClassList | None,
    templates: tuple[str, ...],
    seed: int,
) -> ProbeSet:
    """The probe set in a folder with one sub-folder of images per class, or with images only.

    Args:
        folder: of the images.
        model: its resize rule reads them.
        given: the class list; None to take the names of the sub-folders.
        templates: for prompts.
        seed: draws the images and the parts.

    Raises:
        UsageError: no folder, no images that can be read, or a folder that cannot name a class.
    """
    files, found, warnings = _found(folder)
    listed = given or ClassList(*merge_duplicates(_folder_names(files)))
    require_two(listed.names)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found), generator=generator)[:MAX_IMAGES].tolist()
    images, read = _read_images([found[i] for i in order], model)
    skipped = len(order) - len(read)
    if not read:
        raise UsageError(f"none of {skipped} images in {safe_text(folder)} could be read")
    labels = _folder_labels(read, listed) if files else [-1] * len(read)
    kept, same = _distinct(images, labels)
    if not kept:
        raise UsageError(f"every image in {safe_text(folder)} lies in folders of several classes")
    images, labels = images[kept], [labels[i] for i in kept]
    told = (*listed.warnings, *not_names(listed.names), *warnings, *same)
    told += _unlisted(files, listed)
    if len(found) > MAX_IMAGES:
        told += (f"drew {MAX_IMAGES} of {len(found)} images and left out the rest",)
    if skipped:
        told += (f"skipped {skipped} images that could not be read",)
    source = f"{safe_text(folder.name)}:{_images_digest(images, labels)}"
    parts = _thirds(images, torch.tensor(labels))
    return ProbeSet(*parts, listed.names, templates, source, skipped, told)


def require_two(names: Sequence[str]) -> None:
    """Refuse a class list that nothing can be told apart with.

    Raises:
        UsageError: fewer than two names.
    """
    if len(names) < 2:
        raise UsageError("at least two classes are needed; name them with --classnames FILE")


def _found(folder: Path) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    """Image files in folders of classes, all image files to read, and what was left out."""
    if not folder.is_dir():
        raise UsageError(f"no folder of probe images at {safe_text(folder)}")
    stray: set[str] = set()

    def images(pattern: str) -> list[Path]:
        kept = []
        for path in sorted(folder.glob(pattern)):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                odd = [part for part in path.relative_to(folder).parts if _is_stray(part)]
                stray.update(odd[:1])
                kept += [] if odd else [path]
        return kept

    files = images("*/*")
    found = files or images("*")
    if not found:
        shown = safe_text(folder)
        raise UsageError(f"no images in {shown}; expected {shown}/CLASS/*")
    names = ", ".join(repr(safe_text(name)) for name in sorted(stray)[:SHOWN])
    return files, found, (f"left out hidden and system files: {names}",) if stray else ()


def _is_stray(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _folder_names(files: Sequence[Path]) -> list[str]:
    names = sorted({path.parent.name for path in files})
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


def _folder_labels(paths: Sequence[Path], listed: ClassList) -> list[int]:
    """Class index of each file's folder, or -1."""
    known = {spoken(name): i for i, name in enumerate(listed.names)}
    folders = [path.parent.name for path in paths]
    return [known.get(spoken(listed.folders.get(name, name)), -1) for name in folders]


def _unlisted(files: Sequence[Path], listed: ClassList) -> tuple[str, ...]:
    """A warning about folders that the class list does not know; their images have no label."""
    first = {path.parent.name: path for path in files}
    labels = _folder_labels([*first.values()], listed)
    unknown = [name for name, label in zip(first, labels, strict=True) if label < 0]
    if not unknown:
        return ()
    names = ", ".join(repr(safe_text(name)) for name in unknown[:SHOWN])
    return (f"{len(unknown)} of {len(first)} folders are not in the class list: {names}",)


def _distinct(images: Tensor, labels: Sequence[int]) -> tuple[list[int], tuple[str, ...]]:
    """Places of images that are shown once, so that no two parts share one, and warnings.

    An image that stands in folders of several classes has no true class and is left out.
    """
    places: dict[bytes, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(hashlib.sha256(image.numpy().tobytes()).digest(), []).append(place)
    groups = places.values()
    clear = [group for group in groups if len({labels[place] for place in group}) == 1]
    copies = sum(len(group) - 1 for group in clear)
    torn = len(images) - copies - len(clear)
    warnings = []
    if copies:
        warnings.append(f"left out {copies} images that are the same as another (duplicates)")
    if torn:
        warnings.append(f"left out {torn} images that are the same in folders of several classes")
    return [group[0] for group in clear], tuple(warnings)


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
