"""Inverted triggers to repair against: what is searched for them, and which are worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipguard.registry import name_of
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.pair import Aim, Effort, search_all
from clipguard.search.roles import Inversion, Inverter, Progress, Search, Trigger, TriggerFamily
from clipguard.search.sides import Side

HOLDS = 0.5
"""Share of *select* images that a trigger must move to be worth repairing against, times what the
best of them moves."""


LOOK = Effort(steps=6, images=4, step_size=2)
"""As long as a reference is searched for squares at first."""

SHORT = Targeted(steps=30, batch=16)
"""Inversions to repair against. Few steps do, for several triggers make up for what each lacks."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Families of which a short look at each keeps those that lead to the target most easily.

    A patch that may be anywhere has to find its place and its pattern at once, and a search that
    has not settled finds little of either. Squares at fixed places need a few steps each, and so
    do waves that start near the planted ones.

    Attributes:
        families: what is looked at.
        most: how many of them are looked at, drawn anew each time; None is all.
        keep: how many of them are searched.
        look: how long each is looked at.
    """

    families: tuple[TriggerFamily, ...]
    most: int | None = None
    keep: int = 1
    look: Effort = LOOK

    def best(self, search: Search, *, generator: torch.Generator) -> list[TriggerFamily]:
        """The families that are worth a longer search, the best first.

        Raises:
            ValueError: `search.target` is missing.
        """
        if search.target is None:
            raise ValueError("a choice needs a target class")
        drawn = torch.randperm(len(self.families), generator=generator)[: self.most].tolist()
        looked = [self.families[place] for place in sorted(drawn)]
        aims = [Aim(family, (search.target,)) for family in looked]
        seed = int(torch.randint(2**31, (1,), generator=generator))
        images = search.probe.optimise.images
        side = Side(search.model, search.classes)
        found = search_all(side, aims, images, self.look, seed=seed, tick=search.tick)
        losses = [one.loss if one.sound else torch.inf for one in found]
        order = sorted(range(len(losses)), key=losses.__getitem__)
        return [looked[place] for place in order[: self.keep]]


Sought = TriggerFamily | Choice
"""What a search is for."""


def inverted(
    search: Search, sought: Sought, inverter: Inverter, *, generator: torch.Generator
) -> list[Inversion]:
    """The trigger of one family, or those of the best of several."""
    chosen = sought.best(search, generator=generator) if isinstance(sought, Choice) else [sought]
    return [inverter.invert(search, family, generator=generator) for family in chosen]


def fresh_triggers(
    search: Search,
    wanted: Sequence[Sought],
    inverter: Inverter,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> list[Trigger]:
    """Triggers to repair against: several, because one may find only part of the shortcut.

    Those that move far fewer images than the best are left out: a patch that has to work
    everywhere finds nothing where the backdoor answers at one place only.

    Args:
        search: model, images, classifier and target.
        wanted: what to search for, one after the other.
        inverter: how.
        generator: of the starts.
        progress: told about each search.
    """
    found: list[Inversion] = []
    for done, sought in enumerate(wanted):
        what = "the best of several" if isinstance(sought, Choice) else name_of(sought)
        stage = f"triggers to purify against ({what})"
        job = search.during(progress, stage, done, len(wanted))
        found += inverted(job, sought, inverter, generator=generator)
    least = HOLDS * max(one.share for one in found)
    return [one.trigger for one in found if one.share >= least]
