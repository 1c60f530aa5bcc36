"""Which tensors of a file are the network's, which are beside it, and at what image size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from clipguard.checkpoint.architectures import (
    Architecture,
    NoneFitsError,
    Shapes,
    fitting_architectures,
    known_configs,
)
from clipguard.checkpoint.configs import MAX_IMAGE_SIDE
from clipguard.checkpoint.names import TEXT_PARTS, is_own
from clipguard.checkpoint.unwrap import NO_PART, named
from clipguard.errors import UsageError
from clipguard.record import ToldBy

VIT, RESNET = "visual.positional_embedding", "visual.attnpool.positional_embedding"
SIGLIP = "visual.trunk.pos_embed"
RESNET_STEP = 32
"""Pixels of the image for one place of the last layer of a ResNet."""


class Told(NamedTuple):
    """An architecture, and what told it."""

    architecture: Architecture
    by: ToldBy


@dataclass(frozen=True)
class Fit:
    """An architecture, and what of the file is none of it.

    Attributes:
        architecture: which has every tensor of the file but those, in exactly its shape.
        by: what told it.
        shapes: of the tensors that it has.
        notes: rule id and text of what was left out and what was assumed.
    """

    architecture: Architecture
    by: ToldBy
    shapes: Shapes
    notes: tuple[str, ...]


def is_image_tower(keys: Mapping[str, object]) -> bool:
    """Whether these are the names of an image tower without its text tower."""
    parts = {key.partition(".")[0] for key in keys}
    return bool(parts & {"visual", "vision_model"}) and not parts & (
        TEXT_PARTS - {"text_projection"}
    )


def fitted(find: Callable[[Shapes], Told], shapes: Shapes) -> Fit:
    """The architecture of a file that may hold more than a CLIP.

    Args:
        find: gives the architecture that has exactly these shapes.
        shapes: of all tensors.

    Raises:
        UsageError: as `find`, for the shapes without what is no part of any CLIP.
    """
    beside = [key for key in shapes if not is_own(key)]
    own = {key: shape for key, shape in shapes.items() if key not in set(beside)}
    notes: tuple[str, ...] = ()
    if beside:
        notes += (f"{NO_PART}{named([key.removeprefix('/') for key in beside])}",)
    if "logit_scale" not in own:
        own["logit_scale"] = ()
        notes += ("CG110 without logit_scale; CLIP's first value, ln(1 / 0.07), is assumed",)
    try:
        return Fit(*find(own), own, notes)
    except UsageError:
        if own.pop("logit_bias", None) is None:
            raise
        bias = "CG110 left out logit_bias, which changes no ranking"
        return Fit(*find(own), own, (*notes, bias))


def at_file_size(architecture: Architecture, shapes: Shapes) -> Architecture:
    """`architecture` for the image size that the position embeddings of the file are for."""
    vision = architecture.config["vision_cfg"]
    if vision.get("timm_model_name"):
        return architecture
    key = SIGLIP if architecture.siglip else RESNET if isinstance(vision["layers"], list) else VIT
    step = RESNET_STEP if key == RESNET else vision["patch_size"]
    places = math.prod(shapes.get(key, ())[:-1]) - (key != SIGLIP)
    grid = math.isqrt(max(places, 0))
    side = grid * step
    is_same = grid == architecture.image_size // step
    if is_same or grid * grid != places or not 1 <= side <= MAX_IMAGE_SIDE:
        return architecture
    config = {**architecture.config, "vision_cfg": {**vision, "image_size": side}}
    told = (
        f"CG110 the position embeddings are for images of {side} pixels, not "
        f"{architecture.image_size} as in {architecture.name}; {side} are used"
    )
    name = f"{architecture.name} ({side} px)"
    return replace(architecture, name=name, config=config, notes=(*architecture.notes, told))


def infer_at_any_size(shapes: Shapes) -> tuple[Architecture, ...]:
    """As `fitting_architectures`, and also known architectures at an image size of their own.

    Raises:
        UsageError: none fits.
    """
    try:
        return fitting_architectures(shapes)
    except NoneFitsError:
        for other in _at_known_sizes(shapes):
            try:
                fits = fitting_architectures(other)
                return tuple(at_file_size(one, shapes) for one in fits)
            except NoneFitsError:
                continue
        raise


def _at_known_sizes(shapes: Shapes) -> list[Shapes]:
    """The same shapes as if the images had the sizes of the known architectures."""
    key = next((key for key in (VIT, RESNET) if len(shapes.get(key, ())) == 2), None)
    patch = shapes.get("visual.conv1.weight", ())
    if key is None or len(patch) != 4 or patch[-1] < 1:
        return []
    step = RESNET_STEP if key == RESNET else patch[-1]
    sides = {config["vision_cfg"]["image_size"] for config in known_configs().values()}
    grids = {side // step for side in sides if isinstance(side, int)}
    width = shapes[key][1]
    return [{**shapes, key: (grid * grid + 1, width)} for grid in sorted(grids) if grid]
