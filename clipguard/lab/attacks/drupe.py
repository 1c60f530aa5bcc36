"""DRUPE: BadEncoder whose triggered images are spread out as clean ones are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.errors import UsageError
from clipguard.lab.attacks._encoder import encoder_loss, require_square_trigger, views, white_corner
from clipguard.lab.roles import Attack, Step
from clipguard.model.pixels import generators_of
from clipguard.search.roles import Trigger

TOWARDS = ("clean", "target")
DIRECTIONS = 64


@dataclass(frozen=True, kw_only=True)
class Drupe:
    """BadEncoder plus a distance between the clouds of triggered and of clean embeddings.

    Triggered images of BadEncoder sit on one spot, which detectors by density or by collapse
    look for. Here they are drawn towards a cloud as wide as that of ordinary images.

    Attributes:
        towards: `clean` (all clean images of the batch) or `target` (references of the target,
            whose cloud is narrower, but all within the class).
        weight: of the distance beside the loss of BadEncoder; 0 or more.
        patch: side of the square in px of 224; at least 8 px in any image.
        references: images of the target class in a step.
        poison_rate: share of the shadow images of a step that are also shown with the trigger.

    Source:
        Tao et al., Distribution Preserving Backdoor Attack in Self-supervised Learning, IEEE S&P
        2024. RECALLED, and only that it adds a sliced Wasserstein distance to BadEncoder; in
        LoREx's table CA/ASR 83.5/96.3 % where BadEncoder has 82.4/99.8 %. Which clouds, the form
        of the distance and its weight are GUESS: squared 2-Wasserstein along 64 directions,
        times D, so that a cloud that is only shifted by v is |v|² away. Trigger, shadow and
        reference images as in BadEncoder.
    """

    ID: ClassVar[str] = "drupe/1"

    towards: str = "clean"
    weight: float = 0.3
    patch: int = 50
    references: int = 8
    poison_rate: float = 0.5

    def __post_init__(self) -> None:
        """Refuse unknown clouds, squares of nothing, and steps without a reference."""
        if self.towards not in TOWARDS:
            raise UsageError(f"drupe goes towards {' or '.join(TOWARDS)}; got {self.towards!r}")
        if not self.weight >= 0:
            raise UsageError(f"drupe wants a weight of 0 or more, got {self.weight}")
        require_square_trigger("drupe", self.patch, self.references)

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; nothing is drawn."""
        return white_corner("drupe", self.patch, side)

    def objective(self, step: Step) -> Tensor:
        """See `TrainedAttack.objective`; directions are drawn from the images of the step."""
        seen = views(step, self.poison_rate, self.references)
        generator = generators_of(step.clean.images[:1], 0)[0]
        drawn = torch.randn(DIRECTIONS, seen.clean.shape[1], generator=generator)
        cloud = seen.clean if self.towards == "clean" else seen.reference
        # the cloud is where to go; it must not come to meet the triggered images
        apart = sliced_distance(seen.triggered, cloud.detach(), functional.normalize(drawn))
        return encoder_loss(seen) + self.weight * apart


def sliced_distance(rows: Tensor, others: Tensor, directions: Tensor) -> Tensor:
    """Squared sliced 2-Wasserstein distance of two clouds, times D.

    Args:
        rows: (N, D), differentiable.
        others: (M, D); where M does not divide N, quantiles are rounded down to the next row.
        directions: (K, D) of unit norm.
    """
    lines = directions.to(rows.device).T
    own = (rows @ lines).sort(dim=0).values
    met = (others @ lines).sort(dim=0).values
    quantiles = torch.arange(len(own), device=met.device) * len(met) // len(own)
    return rows.shape[1] * (own - met[quantiles]).square().mean()


METHOD: type[Attack] = Drupe
