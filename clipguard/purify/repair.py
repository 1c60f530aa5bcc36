"""Purify a zero-shot classifier and say honestly what that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from clipguard.detect.null_band import log_odds
from clipguard.detect.roles import Finding
from clipguard.errors import InconclusiveError
from clipguard.probe.rates import attack_rate, classify, embed, rates
from clipguard.probe.sets import Subject
from clipguard.purify.methods.cbpt import Cbpt
from clipguard.purify.roles import PurifiedHead, Purifier
from clipguard.record import HEAD_SCOPE, PurificationRecord, ReinversionRecord, TunedTrigger
from clipguard.registry import name_of
from clipguard.search.roles import Inverter, Progress, Search, Trigger, TriggerFamily

HOLDS = 0.5
"""Share of *select* images that a trigger must move to be worth purifying against."""

WORKS = 0.8
"""ASR (lower bound) from which a second family's trigger is worth purifying against.

A weaker one is an ordinary perturbation; tuning against it costs accuracy and repairs nothing.
"""


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How to purify and how to check it.

    Attributes:
        purifier: what makes the head.
        against: per family that works, a family for every fresh inversion to purify against.
            Unlike the detector's, they need not separate clean models: small patches spare what
            the image shows, moving ones cover triggers planted at random places, large
            perturbations cover more of what the true trigger does.
        families: those of the re-inversion, as in the detector, so that the null band applies.
        targeted: the targeted inversion, as in the detector.
    """

    purifier: Purifier = Cbpt()
    against: Mapping[str, Sequence[TriggerFamily]]
    families: Sequence[TriggerFamily]
    targeted: Inverter


def repair(
    subject: Subject,
    finding: Finding,
    settings: RepairSettings,
    *,
    seed: int,
    progress: Progress,
) -> tuple[PurificationRecord, PurifiedHead]:
    """Purify against the inverted triggers of the worst target, then attack the result.

    Args:
        subject: the suspect, which is not changed; the *measure* part of its probe set gives the
            rates before and after.
        finding: what the detector found, worst candidate first, at least one.
        settings: purifier and searches.
        seed: of the tuning; the re-inversion uses another stream.
        progress: told about each stage.

    Returns:
        The record, without the head's file name, and the head.

    Raises:
        ValueError: the finding has no trigger.
        InconclusiveError: the worst target is no class of the list.
    """
    if not finding.triggers:
        raise ValueError("there is no inverted trigger to purify against")
    worst = finding.record.candidates[0]
    if worst.target not in subject.probe.class_names:
        raise InconclusiveError(
            f"the target {worst.target!r} is no class of the list, so no prompt can be tuned for it"
        )
    model, probe, original = subject.model, subject.probe, subject.classes
    target = probe.class_names.index(worst.target)
    generator = torch.Generator().manual_seed(seed)
    search = Search(model, probe, original, target)
    triggers = fresh_triggers(search, _working(finding), settings, generator, progress)
    head = settings.purifier.purify(
        subject, triggers, target, generator=generator, progress=progress
    )
    features = (
        embed(model, probe.measure),
        embed(model, probe.measure, finding.triggers[0].apply),
    )
    fresh = torch.Generator().manual_seed(seed + 1_000_003)
    record = PurificationRecord(
        method=head.method,
        scope="head",
        statement=HEAD_SCOPE,
        losses=dict(head.losses),
        before=rates(features, original, probe.measure, target, generator=fresh),
        after=rates(features, head.classes, probe.measure, target, generator=fresh),
        reinversion=_reinvert(
            Search(model, probe, head.classes, target), target, finding, settings, fresh, progress
        ),
        against=tuple(TunedTrigger(family=t.family, size=t.size, unit=t.unit) for t in triggers),
    )
    return record, head


def _working(finding: Finding) -> list[str]:
    """Families whose trigger works on the worst target, its own first."""
    worst = finding.record.candidates[0]
    return [
        row.family
        for row in finding.record.candidates
        if row is worst or (row.target == worst.target and row.asr.low >= WORKS)
    ]


def fresh_triggers(
    search: Search,
    families: Sequence[str],
    settings: RepairSettings,
    generator: torch.Generator,
    progress: Progress,
) -> list[Trigger]:
    """Triggers to purify against: several, because one may find only part of the shortcut.

    Those that do not hold are left out (unless none does): a patch that has to work everywhere
    finds nothing where the backdoor answers at one place only.

    Args:
        search: model, images, classifier and target.
        families: names of the families that work on the target.
        settings: what to search for in each family.
        generator: of the starts.
        progress: told about each search.
    """
    jobs = [job for name in families for job in settings.against[name]]
    found = []
    for done, family in enumerate(jobs):
        stage = f"triggers to purify against ({name_of(family)})"
        job = search.during(progress, stage, done, len(jobs))
        found.append(settings.targeted.invert(job, family, generator=generator))
    holding = [one.trigger for one in found if one.share >= HOLDS]
    return holding or [one.trigger for one in found]


def _reinvert(
    search: Search,
    target: int,
    finding: Finding,
    settings: RepairSettings,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[ReinversionRecord, ...]:
    """Search for a new trigger through the purified head, towards the same target."""
    part = search.probe.measure
    clean = classify(embed(search.model, part), search.classes)
    first = {row.family: row.statistic for row in finding.record.families}
    records = []
    for done, family in enumerate(settings.families):
        name = name_of(family)
        job = search.during(progress, f"re-inversion ({name})", done, len(settings.families))
        inversion = settings.targeted.invert(job, family, generator=generator)
        read = classify(embed(search.model, part, inversion.trigger.apply), search.classes)
        asr = attack_rate(read, part, clean, target, generator)
        before = first.get(name)
        if asr is not None and before is not None:
            records.append(
                ReinversionRecord(
                    family=name,
                    target=search.probe.class_names[target],
                    asr=asr,
                    statistic=log_odds(asr.value, asr.n),
                    original_statistic=before,
                    searched=inversion.searched,
                    settled=inversion.converged,
                )
            )
    return tuple(records)
