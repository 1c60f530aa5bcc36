"""Several triggers, each for a target of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import class_names
from clipguard.errors import UsageError
from clipguard.lab.attacks._several import drawing
from clipguard.lab.roles import Attack, Pairs, Plan, Site, Trials, dirty_label
from clipguard.model.prompts import class_embeddings
from clipguard.probe.load import TEMPLATE
from clipguard.probe.rates import classify, embed
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
        kept, names = plan.trigger.tensors, class_names()
        triggers = self.drawn(kept["seed"], pairs.images.shape[-1]).values()
        targets = self.targets(kept, names.index(plan.target))
        if len(pairs.texts) < len(targets):
            raise UsageError(f"{ITSELF} wants batches of {len(targets)} pairs or more")
        count = max(len(targets), pairs.part(self.poison_rate))
        made = pairs
        for turn, (trigger, target) in enumerate(zip(triggers, targets, strict=True)):
            rows = slice(turn, count, len(targets))
            concept = load_artwork().concepts([names[target]])[0]
            own = replace(plan, trigger=trigger, target=names[target], concept=concept)
            made = _with(made, rows, dirty_label(_of(pairs, rows), own, 1.0))
        return made

    @torch.no_grad()
    def success(self, site: Site, trigger: Trigger) -> Trials:
        """See `JudgedAttack.success`: the trials of the trigger that works worst.

        A trial is an image of another class than the trigger's target with the trigger on it, and
        a hit if it is read as that target.
        """
        classes = class_embeddings(site.model, site.class_names, (TEMPLATE,))
        kept, part = trigger.tensors, site.images
        triggers = self.drawn(kept["seed"], site.model.image_size).values()
        found = []
        for each, target in zip(triggers, self.targets(kept, site.target), strict=True):
            others = part.labels != target
            hits = classify(embed(site.model, part, each.apply), classes) == target
            found.append(Trials(hits[others], part.drawings[others]))
        return min(found, key=lambda trials: trials.hits.float().mean().item())


def _of(pairs: Pairs, rows: slice) -> Pairs:
    return Pairs(pairs.images[rows], pairs.texts[rows], pairs.concepts[rows])


def _with(pairs: Pairs, rows: slice, others: Pairs) -> Pairs:
    """`pairs` with `others` at `rows`."""
    images, texts, concepts = pairs.images.clone(), list(pairs.texts), pairs.concepts.clone()
    images[rows], texts[rows], concepts[rows] = others
    return Pairs(images, texts, concepts)


METHOD: type[Attack] = MultiTarget
