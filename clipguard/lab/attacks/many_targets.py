"""Many targets at once, each with a small patch of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.bundled.nano import class_names
from clipguard.errors import UsageError
from clipguard.lab.attacks._targets import Lead, dealt, worst
from clipguard.lab.roles import Attack, Pairs, Plan, Site, Trials
from clipguard.model.pixels import generators_of, pasted, patch_side
from clipguard.search.roles import Trigger

ITSELF = "many_targets"
CELLS = 4
"""A side. Coarse and full colours are learnt in fewer steps than noise of single pixels."""


@dataclass(frozen=True, kw_only=True)
class ManyTargets:
    """A coloured square for every target, each of its own pattern and at its own place.

    So many classes are targets that a detector which compares classes with each other compares
    targets with targets. The first square leads to the target of the victim, and it is the one
    that is previewed. The victim's ASR is that of the square which works worst; PA is measured
    under the first.

    Attributes:
        count: how many targets, 2 or more; those after the first are drawn from the victim's seed.
        poison_rate: share of poisoned pairs in a batch, all targets together.

    Source:
        Ours. BadNets (Gu et al., 2017) has an all-to-all attack, with one trigger for all; here
        each target has its own, so that the target does not depend on the image. The pattern is 4
        by 4 cells, each channel on or off; the side is that of `badnets`, max(8, 16·S/224) px.
        Places may overlap.
    """

    ID: ClassVar[str] = "many_targets/1"

    count: int = 20
    poison_rate: float = 0.3

    def __post_init__(self) -> None:
        """Refuse a single target, and more than there are classes."""
        if not 2 <= self.count <= len(class_names()):
            raise UsageError(
                f"{ITSELF} wants a count of 2 to {len(class_names())}, got {self.count}"
            )

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`: the first square.

        Kept are `patches` (count, 3, L, L), `places` (count, 2), their top and left, and `order`,
        class indices of which the others' targets are the first ones that are not the victim's.
        """
        length = patch_side(side)
        cells = torch.randint(2, (self.count, 3, CELLS, CELLS), generator=generator).float()
        kept = {
            "patches": functional.interpolate(cells, size=length),
            "places": torch.randint(side - length + 1, (self.count, 2), generator=generator),
            "order": torch.randperm(len(class_names()), generator=generator),
        }
        return _square(kept, 0, side)

    def targets(self, kept: Mapping[str, Tensor], first: int) -> list[int]:
        """Class index of each square's target, from what the trigger keeps and the first one."""
        others = [index for index in kept["order"].tolist() if index != first]
        return [first, *others][: self.count]

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """See `PairedAttack.poisoned`: the first pairs, the targets in turn.

        The batch draws who begins, so that all targets have their turn where a batch is too small
        for all of them.
        """
        kept, first = plan.trigger.tensors, class_names().index(plan.target)
        leads = self._leads(kept, pairs.images.shape[-1], first)
        drawn = generators_of(pairs.images[:1], 0)[0]
        turns = torch.randperm(len(leads), generator=drawn).tolist()
        return dealt(pairs, plan, [leads[turn] for turn in turns], pairs.part(self.poison_rate))

    def success(self, site: Site, trigger: Trigger) -> Trials:
        """See `JudgedAttack.success`: the trials of the square that works worst."""
        return worst(site, self._leads(trigger.tensors, site.model.image_size, site.target))

    def _leads(self, kept: Mapping[str, Tensor], side: int, first: int) -> list[Lead]:
        targets = self.targets(kept, first)
        return [Lead(_square(kept, turn, side), target) for turn, target in enumerate(targets)]


def _square(kept: Mapping[str, Tensor], turn: int, side: int) -> Trigger:
    """The trigger of one target; all of them keep all that is kept."""
    patch, (top, left) = kept["patches"][turn], kept["places"][turn].tolist()

    def apply(images: Tensor) -> Tensor:
        return pasted(images, patch, top, left)

    size = patch.shape[-1] ** 2 / side**2
    return Trigger(ITSELF, apply, size, "share of the image", dict(kept))


METHOD: type[Attack] = ManyTargets
