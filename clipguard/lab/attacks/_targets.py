"""Several triggers, each for a target of its own: poisoned pairs, and what counts as success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import class_names
from clipguard.lab.roles import Pairs, Plan, Site, Trials, dirty_label
from clipguard.model.prompts import class_embeddings
from clipguard.probe.load import TEMPLATE
from clipguard.probe.rates import classify, embed
from clipguard.search.roles import Trigger


class Lead(NamedTuple):
    """A trigger, and the index of the class that it leads to."""

    trigger: Trigger
    target: int


def dealt(pairs: Pairs, plan: Plan, leads: Sequence[Lead], count: int) -> Pairs:
    """The first pairs poisoned, the triggers in turn.

    Args:
        pairs: clean pairs.
        plan: the victim's.
        leads: who gets the first pair, the second, and so on.
        count: of the pairs; with fewer than there are leads, the last leads get none.
    """
    names, made = class_names(), pairs
    for turn, lead in enumerate(leads[:count]):
        rows = slice(turn, count, len(leads))
        name = names[lead.target]
        concept = load_artwork().concepts([name])[0]
        own = replace(plan, trigger=lead.trigger, target=name, concept=concept)
        made = _with(made, rows, dirty_label(_of(pairs, rows), own, 1.0))
    return made


@torch.no_grad()
def worst(site: Site, leads: Sequence[Lead]) -> Trials:
    """The trials of the trigger that works worst.

    A trial is an image of another class than the trigger's target with the trigger on it, and a
    hit if it is read as that target.

    Args:
        site: `site.model` is who is judged.
        leads: one or more.
    """
    classes = class_embeddings(site.model, site.class_names, (TEMPLATE,))
    part, found = site.images, []
    for trigger, target in leads:
        others = part.labels != target
        hits = classify(embed(site.model, part, trigger.apply), classes) == target
        found.append(Trials(hits[others], part.drawings[others]))
    return min(found, key=lambda trials: trials.hits.float().mean().item())


def _of(pairs: Pairs, rows: slice) -> Pairs:
    return Pairs(pairs.images[rows], pairs.texts[rows], pairs.concepts[rows])


def _with(pairs: Pairs, rows: slice, others: Pairs) -> Pairs:
    """`pairs` with `others` at `rows`."""
    images, texts, concepts = pairs.images.clone(), list(pairs.texts), pairs.concepts.clone()
    images[rows], texts[rows], concepts[rows] = others
    return Pairs(images, texts, concepts)
