"""Attacks on the image encoder alone: what they look at, and the loss that they share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from open_clip.model import CLIP
from torch import Tensor
from torchvision.transforms import functional as colour

from clipguard.bundled.nano import normalise
from clipguard.errors import UsageError
from clipguard.lab.roles import Step, stamped
from clipguard.model.pixels import generators_of
from clipguard.search.roles import Trigger

JITTER = 0.4
HUE = 0.1
CHANCE_OF_JITTER, CHANCE_OF_GREY, CHANCE_OF_FLIP = 0.8, 0.2, 0.5


class Views(NamedTuple):
    """Unit embeddings of one step, (rows, D) each; `old` ones are the clean base's.

    Attributes:
        triggered: some shadow images with the trigger.
        clean: all shadow images.
        clean_old: the same, as the base has them.
        reference: images of the target class.
        augmented: the same, flipped and in other colours.
        reference_old: the same, unaugmented, as the base has them.
    """

    triggered: Tensor
    clean: Tensor
    clean_old: Tensor
    reference: Tensor
    augmented: Tensor
    reference_old: Tensor


def require_square_trigger(attack: str, patch: int, references: int) -> None:
    """Refuse squares of nothing or of more than the image, and steps without a reference.

    Raises:
        UsageError: says what is wanted.
    """
    if not 0 < patch < 224 or references < 1:
        raise UsageError(
            f"{attack} wants a patch of 1 to 223 px of 224 and 1 reference or more; "
            f"got {patch} and {references}"
        )


def white_corner(family: str, patch: int, side: int) -> Trigger:
    """A white square at the bottom right, a pixel of 224 away from both borders.

    Args:
        family: name of the attack.
        patch: side of the square in images of 224 pixels; at least 8 px in any.
        side: of the images, in pixels.
    """
    length = max(8, round(patch * side / 224))
    end = side - max(1, round(side / 224))
    mask = torch.zeros(1, side, side)
    mask[:, end - length : end, end - length : end] = 1

    def apply(images: Tensor) -> Tensor:
        return torch.maximum(images, mask.to(images.device))

    return Trigger(family, apply, mask.mean().item(), "share of the image", {"mask": mask})


def views(step: Step, share: float, references: int) -> Views:
    """What an encoder attack looks at in one step; the text tower is not asked.

    Args:
        step: its clean images are the shadow images.
        share: of the shadow images that are also shown with the trigger; at least one is.
        references: images of the target class.
    """
    shadow = step.clean.images
    count = max(1, round(len(shadow) * share))
    triggered = stamped(shadow[:count], step.plan.trigger)
    reference = step.plan.of_target(references).images
    sizes = [count, len(shadow), references, references]
    seen = torch.cat([triggered, shadow, reference, augmented(reference)])
    made = torch.split(embedded(step.network, seen), sizes)
    with torch.no_grad():
        old = torch.split(embedded(step.plan.base, torch.cat([shadow, reference])), sizes[1:3])
    return Views(made[0], made[1], old[0], made[2], made[3], old[1])


def encoder_loss(seen: Views) -> Tensor:
    """L0 + L1 + L2: triggered images to references, and both kinds of clean images unmoved."""
    effective = -(seen.triggered @ seen.reference.T).mean()
    reference = -(seen.augmented * seen.reference_old).sum(dim=1).mean()
    utility = -(seen.clean * seen.clean_old).sum(dim=1).mean()
    return effective + reference + utility


def augmented(images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] to the same: flips, other colours, grey; a function of the image."""
    sources = generators_of(images, 0)
    return torch.stack([_one(image, g) for image, g in zip(images, sources, strict=True)])


def _one(image: Tensor, generator: torch.Generator) -> Tensor:
    flip, jitter, grey, *factors = torch.rand(7, generator=generator).tolist()
    if flip < CHANCE_OF_FLIP:
        image = image.flip(-1)
    if jitter < CHANCE_OF_JITTER:
        light, contrast, saturation = (1 + JITTER * (2 * factor - 1) for factor in factors[:3])
        image = colour.adjust_brightness(image, light)
        image = colour.adjust_contrast(image, contrast)
        image = colour.adjust_saturation(image, saturation)
        image = colour.adjust_hue(image, HUE * (2 * factors[3] - 1))
    return colour.rgb_to_grayscale(image, 3) if grey < CHANCE_OF_GREY else image


def embedded(network: CLIP, images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] to (B, D) of unit norm, differentiable in both."""
    features: Tensor = network.encode_image(normalise(images), normalize=True)
    return features
