"""Where the repair of an image tower starts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from clipguard.model.roles import ClipModel, Repairable
from clipguard.probe.rates import classify, embed, pseudo_labels
from clipguard.probe.sets import Subject
from clipguard.purify.features import one_of
from clipguard.search.roles import Trigger


def start(
    subject: Subject,
    model: Repairable,
    triggers: Sequence[Trigger],
    reference: ClipModel | None,
) -> tuple[Repairable, ClipModel]:
    """What to tune, and its teacher: the suspect, or what lies half-way to the reference.

    Half-way it is where that reads at least as many of the *select* images rightly, clean and with
    a trigger: less of what was planted is left there. Without labels, what the suspect reads from
    the clean image counts as right.

    Args:
        subject: the suspect, with its probe set.
        model: the suspect, as a model that can be copied.
        triggers: inverted ones.
        reference: a model that the suspect is said to come from; one of another shape is left out.
    """
    copy = model.copied()
    mixed = None if reference is None else _halfway(model, reference)
    if mixed is None:
        return copy, model
    part, classes = subject.probe.select, subject.classes
    wanted = pseudo_labels(part, classify(embed(model, part), classes))

    def kept(one: ClipModel) -> float:
        """Share of readings, of the clean and of the triggered images, that are right."""
        looks = None, partial(one_of, triggers, torch.Generator().manual_seed(0))
        read = [(classify(embed(one, part, look), classes) == wanted).float() for look in looks]
        return (read[0].mean() + read[1].mean()).item()

    return (mixed.copied(), mixed) if kept(mixed) >= kept(copy) else (copy, model)


def _halfway(model: Repairable, reference: ClipModel) -> Repairable | None:
    """A copy with the mean of both image towers; None where their weights do not fit."""
    mine, theirs = (one.image_tower().state_dict() for one in (model, reference))
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in theirs.items()}:
        return None
    copy = model.copied()
    # how images are prepared is no weight: it stays the suspect's
    prepares = dict(model.image_tower().named_buffers(recurse=False))
    mixed = [k for k, v in mine.items() if v.is_floating_point() and k not in prepares]
    mean = {key: (mine[key] + theirs[key].to(mine[key].device)) / 2 for key in mixed}
    copy.image_tower().load_state_dict({**mine, **mean})
    return copy
