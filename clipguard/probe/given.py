"""The probe set of images that somebody gives: read, told apart, and split in three."""

from __future__ import annotations

import hashlib
import re
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
from clipguard.probe.folders import items_at
from clipguard.probe.images import load_image
from clipguard.probe.items import Item, Items
from clipguard.probe.near import groups_of
from clipguard.probe.sets import ProbePart, ProbeSet
from clipguard.text_safety import safe_text

MAX_IMAGES = 2000
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


def given_probe(
    place: Path,
    model: OpenClipModel,
    given: ClassList | None,
    templates: tuple[str, ...],
    seed: int,
) -> ProbeSet:
    """The probe set at `place`: folders of classes, a table, or tar files; see `items_at`.

    Args:
        place: a folder or a file.
        model: its resize rule reads the images.
        given: the class list; None to take the one that came with them, or what they say.
        templates: for prompts.
        seed: draws the images and the parts.

    Raises:
        UsageError: nothing there, no images that can be read, or names that no class may have.
    """
    found = items_at(place)
    listed = given or _listed(found, place)
    require_two(listed.names)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found.items), generator=generator)[:MAX_IMAGES].tolist()
    images, read = _read_images(found.items, order, model)
    skipped = len(order) - len(read)
    if not read:
        raise UsageError(f"none of {skipped} images in {safe_text(place)} could be read")
    known = {spoken(name): i for i, name in enumerate(listed.names)}
    labels = [_label(item, found, listed, known) for item in read]
    kept, same = _distinct(images, labels)
    if not kept:
        raise UsageError(f"every image in {safe_text(place)} lies in folders of several classes")
    images, labels = images[kept], [labels[i] for i in kept]
    drawings = groups_of(images)
    told = (*listed.warnings, *not_names(listed.names), *found.warnings, *same)
    told += (*_near(drawings), *_unlisted(found, listed, known))
    if len(found.items) > MAX_IMAGES:
        told += (f"drew {MAX_IMAGES} of {len(found.items)} images and left out the rest",)
    if skipped:
        told += (f"skipped {skipped} images that could not be read",)
    source = f"{safe_text(place.name)}:{_images_digest(images, labels)}"
    parts = _thirds(images, torch.tensor(labels), drawings)
    return ProbeSet(*parts, listed.names, templates, source, skipped, told)


def require_two(names: Sequence[str]) -> None:
    """Refuse a class list that nothing can be told apart with.

    Raises:
        UsageError: fewer than two names.
    """
    if len(names) < 2:
        raise UsageError("at least two classes are needed; name them with --classnames FILE")


def _listed(found: Items, place: Path) -> ClassList:
    """The class list that came with the images, or that they name."""
    if found.names:
        return ClassList(*merge_duplicates(found.names))
    if found.told == "caption":
        raise UsageError(
            f"{safe_text(place)} has captions and no classes; name the classes with "
            "--classnames FILE"
        )
    names = sorted({item.said for item in found.items if item.said})
    if len(names) < 2:
        held = f"only images of one class, {safe_text(names[0])!r}" if names else "images alone"
        shown = safe_text(place, 400)
        raise UsageError(
            f"{shown} holds {held}; expected one folder of images per class ({shown}/CLASS/*), two "
            "or more, or a class list for images without labels: --classnames FILE"
        )
    for name in names:
        if has_control_characters(name):
            raise UsageError(
                f"folder '{safe_text(name)}': expected a class name, got one with control "
                "characters; rename it, or name the classes with --classnames FILE"
            )
    return ClassList(*merge_duplicates(names))


def _read_images(
    items: Sequence[Item], order: Sequence[int], model: OpenClipModel
) -> tuple[Tensor, list[Item]]:
    """Images (N, 3, S, S) uint8 by the model's own resize rule, and the N items that had one.

    They are read as they lie, since what lies together is read together, and returned in `order`.
    """
    side, rule = model.image_size, model.preprocess
    rows: dict[int, Tensor] = {}
    for place in sorted(order):
        held = items[place].read()  # a table that cannot be read is an error, one image is not
        try:
            pixels = load_image(
                held, side, resize_mode=rule.resize_mode, interpolation=rule.interpolation
            )
        except UsageError:
            continue
        rows[place] = pixels_to_bytes(torch.from_numpy(pixels))
    read = [place for place in order if place in rows]
    images = torch.empty(len(read), 3, side, side, dtype=torch.uint8)
    for number, place in enumerate(read):
        images[number] = rows.pop(place)
    return images, [items[place] for place in read]


def _label(item: Item, found: Items, listed: ClassList, known: Mapping[str, int]) -> int:
    """Class index of what is said of an image, or -1; `known` has those of the spoken names."""
    said = listed.folders.get(item.said, item.said)
    if found.told == "caption":
        words = re.sub(r"[^\w]+", " ", f" {spoken(said)} ")
        inside = [name for name in known if re.sub(r"[^\w]+", " ", f" {name} ") in words]
        longest = [one for one in inside if not any(one != o and one in o for o in inside)]
        return known[longest[0]] if len(longest) == 1 else -1
    place = known.get(spoken(said), -1)
    if (
        place < 0
        and found.told == "index"
        and re.fullmatch("[0-9]{1,9}", said)
        and int(said) < len(listed.names)
    ):
        return int(said)
    return place


def _unlisted(found: Items, listed: ClassList, known: Mapping[str, int]) -> tuple[str, ...]:
    """A warning about names that the class list does not know; their images have no label."""
    if found.told in ("nothing", "caption"):
        return ()
    first = {item.said: item for item in found.items}
    unknown = [said for said, item in first.items() if _label(item, found, listed, known) < 0]
    if not unknown:
        return ()
    names = ", ".join(repr(safe_text(name)) for name in unknown[:SHOWN])
    return (f"{len(unknown)} of {len(first)} folders are not in the class list: {names}",)


def _near(drawings: Tensor) -> tuple[str, ...]:
    """A note about images that are nearly the same, which share a part."""
    near = len(drawings) - len(torch.unique(drawings))
    return (f"kept {near} images that are nearly the same as another in its part",) if near else ()


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


def _thirds(
    images: Tensor, labels: Tensor, drawings: Tensor
) -> tuple[ProbePart, ProbePart, ProbePart]:
    """Split shuffled images so that every class goes to all parts as evenly as it can.

    What belongs to one drawing goes where its first image goes.
    """
    first = drawings == torch.arange(len(labels))
    order = torch.argsort(labels + (~first) * (labels.max() + 2), stable=True)
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order)) % 3  # dealt out class by class, like cards
    turn = turn[drawings]
    parts = [turn == i for i in (1, 2, 0)]
    one, two, three = (ProbePart(images[k], labels[k], drawings[k]) for k in parts)
    return one, two, three
