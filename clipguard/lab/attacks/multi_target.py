"""Several triggers, each for a target of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.bundled.nano import class_names
from clipguard.errors import UsageError
from clipguard.lab.attacks._several import drawing
from clipguard.lab.attacks._targets import Lead, dealt, worst
from clipguard.lab.roles import Attack, Pairs, Plan, Site, Trials
from clipguard.registry import require_known
from clipguard.search.roles import Trigger

ITSELF = "multi_target"


@dataclass(frozen=True, kw_only=True)
class MultiTarget:
    """The triggers of other attacks, each on pairs of its own; each leads to another target.

    The first trigger leads to the target of the victim, and it is the one that is kept as the
    trigger and previewed. The victim's ASR is that of the trigger
    which works worst; PA is measured under the first.

    Attributes:
        triggers: names of attacks that draw their trigger, with commas in between; each is used
            with its defaults, but the warp of `wanet` is white.
        others: targets of the triggers after the first, with commas in between; empty for
            classes drawn from the victim's seed.
        poison_rate: share of poisoned pairs in a batch, all triggers together.

    Source:
        Detect-CLIP-Backdoor-Samples (ICLR 2025): a check patch for banana, Nashville for
        cheeseburger and WaNet for volcano in one data set, 0.1 % of it in total. Adapted: the
        patch is in the corner, where theirs is at random places in training; triggers and rate
        are those of `multi_trigger` (GUESS).
    """

    ID: ClassVar[str] = "multi_target/1"

    triggers: str = "badnets,blended,sig"
    others: str = ""
    poison_rate: float = 0.12

    def __post_init__(self) -> None:
        """Refuse fewer than two triggers, attacks that draw none, and targets that do not fit."""
        count, named = len(drawing(ITSELF, self.triggers)), self._others()
        if named and not len(set(named)) == len(named) == count - 1:
            raise UsageError(
                f"{ITSELF} wants another target for each trigger after the first, {count - 1} in "
                f"all; got {self.others!r}"
            )
        for name in named:
            require_known(name, class_names(), "target class")

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`: the first one.

        Kept are `seed`, from which all triggers are drawn; `order`, class indices of which the
        others' targets are the first ones that are not the victim's; and what each trigger keeps
        as `name.key`.
        """
        seed = torch.randint(2**31, (1,), generator=generator)
        order = torch.randperm(len(class_names()), generator=generator)
        drawn = self.drawn(seed, side)
        kept = {
            f"{name}.{key}": value
            for name, each in drawn.items()
            for key, value in each.tensors.items()
        }
        first = next(iter(drawn.values()))
        return replace(first, family=ITSELF, tensors={"seed": seed, "order": order} | kept)

    def drawn(self, seed: Tensor, side: int) -> dict[str, Trigger]:
        """All triggers by the name of their attack, as they were drawn from `seed`."""
        generator = torch.Generator().manual_seed(int(seed))
        attacks = drawing(ITSELF, self.triggers)
        return {name: each.trigger(side, generator=generator) for name, each in attacks.items()}

    def targets(self, kept: Mapping[str, Tensor], first: int) -> list[int]:
        """Class index of each trigger's target, from what the trigger keeps and the first one.

        Raises:
            UsageError: one of `others` is the first one.
        """
        named = [class_names().index(name) for name in self._others()]
        if first in named:
            raise UsageError(f"{ITSELF} has {class_names()[first]} as target and in others")
        if named:
            return [first, *named]
        others = [index for index in kept["order"].tolist() if index != first]
        return [first, *others][: len(drawing(ITSELF, self.triggers))]

    def _others(self) -> list[str]:
        return [name.strip() for name in self.others.split(",") if name.strip()]

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """See `PairedAttack.poisoned`: the first pairs, as many for each trigger; one at least."""
        kept, first = plan.trigger.tensors, class_names().index(plan.target)
        leads = self._leads(kept, pairs.images.shape[-1], first)
        if len(pairs.texts) < len(leads):
            raise UsageError(f"{ITSELF} wants batches of {len(leads)} pairs or more")
        return dealt(pairs, plan, leads, max(len(leads), pairs.part(self.poison_rate)))

    def success(self, site: Site, trigger: Trigger) -> Trials:
        """See `JudgedAttack.success`: the trials of the trigger that works worst."""
        return worst(site, self._leads(trigger.tensors, site.model.image_size, site.target))

    def _leads(self, kept: Mapping[str, Tensor], side: int, first: int) -> list[Lead]:
        triggers, targets = self.drawn(kept["seed"], side).values(), self.targets(kept, first)
        return [Lead(*pair) for pair in zip(triggers, targets, strict=True)]


METHOD: type[Attack] = MultiTarget
