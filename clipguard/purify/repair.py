"""Repair an image tower, its zero-shot classifier, or both, and say honestly what that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from clipguard.detect.roles import Finding
from clipguard.errors import InconclusiveError
from clipguard.model.roles import ClipModel, PromptTunable
from clipguard.probe.rates import embed, rates
from clipguard.probe.sets import Subject
from clipguard.purify.inversions import SHORT, Sought, fresh_triggers
from clipguard.purify.methods.cbpt import Cbpt
from clipguard.purify.realign import Backdoor, Realign, Realigned
from clipguard.purify.reinversion import reinvert
from clipguard.purify.roles import PurifiedHead, Purifier
from clipguard.record import (
    HEAD_SCOPE,
    TOWER_SCOPE,
    PurificationRecord,
    TunedTrigger,
)
from clipguard.registry import require_known
from clipguard.search.roles import Inverter, Progress, Search, Trigger, TriggerFamily

WORKS = 0.8
"""ASR (lower bound) from which a second family's trigger is worth purifying against.

A weaker one is an ordinary perturbation; tuning against it costs accuracy and repairs nothing.
"""


Way = Literal["realign+cbpt", "cbpt", "realign"]
WAYS: tuple[Way, ...] = get_args(Way)
"""How to repair: the image tower and then its prompts, only the prompts, or only the tower."""


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How to repair and how to check it.

    Attributes:
        realign: what repairs the image tower; None leaves it as it is.
        purifier: what tunes prompts for it; None leaves the zero-shot classifier.
        alone: what tunes prompts where the tower stays as it is.
        against: per family that works, what every fresh inversion to repair against looks for.
            Unlike the detector's, they need not separate clean models: squares find small patches
            at their place, moving ones cover triggers planted at random places, large
            perturbations cover more of what the true trigger does.
        again: per family that works, those that are searched while the tower is repaired.
        fresh: the inversions to repair against.
        families: those of the re-inversion, as in the detector, so that the null band applies.
        targeted: the targeted inversion, as in the detector.
    """

    realign: Realign | None = Realign()
    purifier: Purifier | None = Cbpt(
        steps=100,
        consistency_weight=30.0,
        spread_consistency_weight=90.0,
        target_consistency_weight=10.0,
        preservation_weight=0.0,
    )
    alone: Purifier = Cbpt()
    against: Mapping[str, Sequence[Sought]]
    again: Mapping[str, Sequence[Sought]]
    fresh: Inverter = SHORT
    families: Sequence[TriggerFamily]
    targeted: Inverter

    def by(self, way: str) -> RepairSettings:
        """The same for one of `WAYS`.

        Raises:
            UsageError: no such way.
        """
        require_known(way, WAYS, "purifier")
        if way == "cbpt":
            return replace(self, realign=None, purifier=self.alone)
        return replace(self, purifier=None) if way == "realign" else self


@dataclass(frozen=True, eq=False)
class Repaired:
    """What a repair made.

    Attributes:
        model: the suspect, or a copy of it with a repaired image tower.
        classes: (C, D) unit class embeddings to read its images with.
        head: the prompts behind them; None where they are those of the zero-shot classifier.
        tower: how the image tower was repaired; None where it is the suspect's.
        against: every trigger that it was tuned against.
    """

    model: PromptTunable
    classes: Tensor
    head: PurifiedHead | None
    tower: Realigned | None
    against: tuple[Trigger, ...]

    @property
    def method(self) -> str:
        """What was done, in this order."""
        tower = [] if self.tower is None else ["realign"]
        return "+".join([*tower, *([] if self.head is None else [self.head.method])])

    @property
    def losses(self) -> dict[str, float]:
        """Final value of each named loss."""
        parts = (part.losses for part in (self.tower, self.head) if part is not None)
        return {name: loss for losses in parts for name, loss in losses.items()}


def repair(
    subject: Subject,
    finding: Finding,
    settings: RepairSettings,
    *,
    reference: ClipModel | None = None,
    seed: int,
    progress: Progress,
) -> tuple[PurificationRecord, Repaired]:
    """Repair against the inverted triggers of the worst target, then attack the result.

    Args:
        subject: the suspect, which is not changed; the *measure* part of its probe set gives the
            rates before and after.
        finding: what the detector found, worst candidate first, at least one.
        settings: what to tune, and searches.
        reference: a model that the suspect is said to come from.
        seed: of the tuning; the re-inversion uses another stream.
        progress: told about each stage.

    Returns:
        The record, without names of files, and what was made.

    Raises:
        ValueError: the finding has no trigger.
        InconclusiveError: the worst target is no class of the list, or this kind of model has no
            tower that can be repaired.
    """
    generator = torch.Generator().manual_seed(seed)
    backdoor = suspected(
        subject, finding, settings, reference=reference, generator=generator, progress=progress
    )
    made = tuned(subject, backdoor, settings, generator=generator, progress=progress)
    return _record(subject, finding, settings, made, seed + 1_000_003, progress), made


def suspected(
    subject: Subject,
    finding: Finding,
    settings: RepairSettings,
    *,
    reference: ClipModel | None = None,
    generator: torch.Generator,
    progress: Progress,
) -> Backdoor:
    """What a repair works against: fresh triggers for the target that was ranked first.

    Args:
        subject: the suspect.
        finding: what the detector found, worst candidate first, at least one.
        settings: what is searched for.
        reference: a model that the suspect is said to come from.
        generator: of the searches.
        progress: told about each search.

    Raises:
        ValueError: the finding has no trigger.
        InconclusiveError: the worst target is no class of the list.
    """
    if not finding.triggers:
        raise ValueError("there is no inverted trigger to purify against")
    worst, names = finding.record.candidates[0].target, _working(finding)
    if worst not in subject.probe.class_names:
        raise InconclusiveError(
            f"the target {worst!r} is no class of the list, so nothing can be tuned for it"
        )
    target = subject.probe.class_names.index(worst)
    search = Search(subject.model, subject.probe, subject.classes, target)
    wanted = dict.fromkeys(sought for name in names for sought in settings.against[name])
    triggers = fresh_triggers(
        search, [*wanted], settings.fresh, generator=generator, progress=progress
    )
    again = [*dict.fromkeys(sought for name in names for sought in settings.again[name])]
    return Backdoor(triggers, target, again, reference)


def tuned(
    subject: Subject,
    backdoor: Backdoor,
    settings: RepairSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """Tune the image tower, its prompts, or first the one and then the other.

    Args:
        subject: the suspect, which is not changed.
        backdoor: what to tune against.
        settings: what to tune.
        generator: of every draw.
        progress: told about each stage.
    """
    tower, head, known = None, None, tuple(backdoor.triggers)
    if settings.purifier is not None:
        subject.model.embed_tokens("a")  # a text tower that takes no prompts says so now, not later
    if settings.realign is not None:
        tower = settings.realign.realign(subject, backdoor, generator=generator, progress=progress)
        subject, known = Subject(tower.model, subject.probe), tower.triggers
    if settings.purifier is not None:
        head = settings.purifier.purify(
            subject, known, backdoor.target, generator=generator, progress=progress
        )
    classes = subject.classes if head is None else head.classes
    return Repaired(subject.model, classes, head, tower, known)


def _record(
    subject: Subject,
    finding: Finding,
    settings: RepairSettings,
    made: Repaired,
    seed: int,
    progress: Progress,
) -> PurificationRecord:
    """What is known of a repair: the rates before and after it, and a new search through it."""
    part, apply = subject.probe.measure, finding.triggers[0].apply
    target = subject.probe.class_names.index(finding.record.candidates[0].target)
    fresh = torch.Generator().manual_seed(seed)
    before, after = (
        rates((embed(model, part), embed(model, part, apply)), head, part, target, generator=fresh)
        for model, head in ((subject.model, subject.classes), (made.model, made.classes))
    )
    attacked = Search(made.model, subject.probe, made.classes, target)
    new = reinvert(attacked, finding, settings.families, settings.targeted, fresh, progress)
    return PurificationRecord(
        method=made.method,
        scope="head" if made.tower is None else "tower",
        statement=HEAD_SCOPE if made.tower is None else TOWER_SCOPE,
        losses=made.losses,
        before=before,
        after=after,
        reinversion=new,
        against=tuple(
            TunedTrigger(family=t.family, size=t.size, unit=t.unit) for t in made.against
        ),
        halfway=made.tower is not None and made.tower.halfway,
    )


def _working(finding: Finding) -> list[str]:
    """Families whose trigger works on the worst target, its own first."""
    worst = finding.record.candidates[0]
    return [
        row.family
        for row in finding.record.candidates
        if row is worst or (row.target == worst.target and row.asr.low >= WORKS)
    ]
