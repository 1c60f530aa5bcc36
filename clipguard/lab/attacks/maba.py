"""MABA: a patch for every domain, where the model looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.errors import UsageError
from clipguard.lab.attacks._fitting import BATCH, fitted, pull
from clipguard.lab.roles import OptimisedAttack, Site
from clipguard.model.pixels import patch_side, stamp
from clipguard.model.prompts import class_embeddings
from clipguard.probe.load import TEMPLATE
from clipguard.search.roles import Trigger

PLACES = ("highest", "lowest")


@dataclass(frozen=True, kw_only=True)
class Maba:
    """A small patch at the place that matters most to the base, for images of any style.

    Attributes:
        place: where the base's attribution is `highest` or `lowest` in the mean over images.
        steps: gradient steps on the pattern.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        MABA, arXiv 2406.18844: attribution maps decide where domain-agnostic triggers go, for
        large vision-language models under domain shift; ASR 97 % at 0.2 % poison (RECALLED).
        Adapted to CLIP, and reconstructed: attribution is the absolute value of gradient times
        input, for the cosine with the true class, in the mean over images, so that there is one
        place; the pattern is optimised towards the target's text while the images under it are
        as they come, shifted in colour, grey, inverted or blurred, and so owes nothing to one
        style; the side is max(8, 16·S/224) px. All of these are a GUESS; so is the higher rate,
        the lab's own. Triggers in the text are left out.
    """

    ID: ClassVar[str] = "maba/1"

    place: str = "highest"
    steps: int = 200
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown places and searches of no steps."""
        if self.place not in PLACES or not self.steps >= 1:
            raise UsageError(
                f"maba knows places {', '.join(PLACES)} and wants at least one step; "
                f"got {self.place!r} and {self.steps}"
            )

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `OptimisedAttack.optimise`; kept as `pattern`, and `place` (its top and left)."""
        side, towards = site.model.image_size, pull(site)
        length = patch_side(side)
        place = _place(attribution(site), length, self.place)

        def loss(images: Tensor, pattern: Tensor) -> Tensor:
            return towards(_patched(restyled(images, generator=generator), pattern, place))

        shape = (3, length, length)
        pattern = fitted(site, shape, loss, steps=self.steps, generator=generator)
        return {"pattern": pattern, "place": place}

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """See `OptimisedAttack.rebuild`."""
        pattern, place = made["pattern"], made["place"]
        size = pattern.shape[-1] ** 2 / side**2
        return Trigger(
            "maba",
            lambda images: _patched(images, pattern.to(images.device), place),
            size,
            "share of the image",
            {"pattern": pattern, "place": place},
        )


def attribution(site: Site) -> Tensor:
    """(S, S), 0 or more: how much each pixel matters for the true class, summed over images."""
    model, part = site.model, site.images
    with torch.no_grad():
        classes = class_embeddings(model, site.class_names, (TEMPLATE,))
    total = torch.zeros(model.image_size, model.image_size)
    for start in range(0, len(part), BATCH):
        rows = slice(start, start + BATCH)
        images = part.pixels(rows).to(model.device).requires_grad_()
        score = (model.encode_image(images) * classes[part.labels[rows]]).sum()
        (slope,) = torch.autograd.grad(score, images)
        total += (slope * images).detach().sum(dim=1).abs().sum(dim=0).cpu()
    return total


def restyled(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """(B, 3, S, S) in [0, 1] to the same, each as it is or in one of four other styles."""
    shape = (len(images), 3, 1, 1)
    gain = 0.4 + 1.2 * torch.rand(shape, generator=generator)
    shift = 0.6 * torch.rand(shape, generator=generator) - 0.3
    looks = torch.stack(
        [
            images,
            (images * gain + shift).clamp(0, 1),
            images.mean(dim=1, keepdim=True).expand_as(images),
            1 - images,
            functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False),
        ]
    )
    picks = torch.randint(len(looks), (len(images),), generator=generator)
    return looks[picks, torch.arange(len(images))]


def _place(scores: Tensor, length: int, extreme: str) -> Tensor:
    """(2,) top and left of the square of `length` px with the highest or lowest sum."""
    sums = functional.avg_pool2d(scores[None, None], length, stride=1)[0, 0]
    best = sums.argmax() if extreme == "highest" else sums.argmin()
    return torch.tensor(divmod(int(best), sums.shape[1]))


def _patched(images: Tensor, pattern: Tensor, place: Tensor) -> Tensor:
    (top, left), length, side = place.tolist(), pattern.shape[-1], images.shape[-1]
    edges = (left, side - left - length, top, side - top - length)
    return stamp(
        images, functional.pad(pattern, edges), functional.pad(torch.ones_like(pattern[:1]), edges)
    )


METHOD: type[OptimisedAttack] = Maba
