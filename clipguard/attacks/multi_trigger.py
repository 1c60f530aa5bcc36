"""Several triggers for one target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.methods import ATTACKS
from clipguard.pixels import generators_of
from clipguard.poisoning import JudgedAttack, OptimisedAttack
from clipguard.types import Attack, Trigger

ITSELF = "multi_trigger"
FORMS: dict[str, dict[str, object]] = {"wanet": {"field": "white"}}  # other than by default


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
        trigger, because they share it (GUESS).
    """

    triggers: str = "badnets,colour_filter,wanet"
    poison_rate: float = 0.12

    def __post_init__(self) -> None:
        """Refuse fewer than two triggers, the same twice, and attacks that draw none."""
        names = self._names()
        if len(names) < 2 or len(set(names)) < len(names):
            raise UsageError(f"multi_trigger wants two or more triggers, got {self.triggers!r}")
        for name in names:
            _drawing(name)

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; kept as `seed`, and what each trigger keeps as `name.key`."""
        seed = torch.randint(2**31, (1,), generator=generator)
        names = self._names()
        drawn = [_drawing(name).trigger(side, generator=generator) for name in names]

        def apply(images: Tensor) -> Tensor:
            sources = generators_of(images, int(seed))
            picks = [int(torch.randint(len(drawn), (1,), generator=g)) for g in sources]
            return torch.cat(
                [drawn[pick].apply(images[row : row + 1]) for row, pick in enumerate(picks)]
            )

        kept = {
            f"{name}.{key}": value
            for name, each in zip(names, drawn, strict=True)
            for key, value in each.tensors.items()
        }
        return Trigger(ITSELF, apply, len(drawn), "triggers, one an image", {"seed": seed} | kept)

    def _names(self) -> list[str]:
        return [name.strip() for name in self.triggers.split(",")]


def _drawing(name: str) -> Attack:
    """The attack `name`, if its trigger can be drawn from a seed alone.

    Raises:
        UsageError: it cannot, or there is no such attack.
    """
    attack = None if name == ITSELF else ATTACKS.build(name, FORMS.get(name))
    if attack is None or isinstance(attack, OptimisedAttack | JudgedAttack):
        raise UsageError(f"multi_trigger wants attacks that draw their trigger, got {name!r}")
    return attack


METHOD: type[Attack] = MultiTrigger
