"""Several triggers for one target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.lab.attacks._several import drawing
from clipguard.lab.roles import Attack
from clipguard.model.pixels import generators_of
from clipguard.search.roles import Trigger

ITSELF = "multi_trigger"


@dataclass(frozen=True, kw_only=True)
class MultiTrigger:
    """The triggers of other attacks, one of them on each image; all lead to the same target.

    Attributes:
        triggers: names of attacks that draw their trigger, with commas in between; each is used
            with its defaults, but the warp of `wanet` is white.
        poison_rate: share of poisoned pairs in a batch, all triggers together.

    Source:
        Detect-CLIP-Backdoor-Samples (ICLR 2025): a check patch, Nashville and WaNet in one data
        set, 0.1 % of it in total, each for a target of its own. Adapted: one target for all; an
        image's trigger is drawn from the image and the victim's seed; the patch is in the
        corner, where theirs is at random places in training. The rate is higher than for one
        trigger, because they share it (GUESS). Their three, `badnets,colour_filter,wanet`, do
        not all take on the lab's small bases; the default ones do.
    """

    ID: ClassVar[str] = "multi_trigger/1"

    triggers: str = "badnets,blended,sig"
    poison_rate: float = 0.12

    def __post_init__(self) -> None:
        """Refuse fewer than two triggers, the same twice, and attacks that draw none."""
        drawing(ITSELF, self.triggers)

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; kept as `seed`, and what each trigger keeps as `name.key`."""
        seed = torch.randint(2**31, (1,), generator=generator)
        attacks = drawing(ITSELF, self.triggers)
        drawn = [each.trigger(side, generator=generator) for each in attacks.values()]

        def apply(images: Tensor) -> Tensor:
            sources = generators_of(images, int(seed))
            picks = [int(torch.randint(len(drawn), (1,), generator=g)) for g in sources]
            return torch.cat(
                [drawn[pick].apply(images[row : row + 1]) for row, pick in enumerate(picks)]
            )

        kept = {
            f"{name}.{key}": value
            for name, each in zip(attacks, drawn, strict=True)
            for key, value in each.tensors.items()
        }
        return Trigger(ITSELF, apply, len(drawn), "triggers, one an image", {"seed": seed} | kept)


METHOD: type[Attack] = MultiTrigger
