"""Purify a zero-shot classifier and say honestly what that changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clipguard.measure import attack_rate, classify, embed, rates
from clipguard.methods import FAMILIES, INVERTERS, PURIFIERS
from clipguard.profiles import RepairSettings
from clipguard.prompts import class_embeddings
from clipguard.record import HEAD_SCOPE, PurificationRecord, ReinversionRecord, TunedTrigger
from clipguard.stats import log_odds
from clipguard.types import (
    Finding,
    ProbeSet,
    Progress,
    PromptTunable,
    PurifiedHead,
    Search,
    Trigger,
)

HOLDS = 0.5
"""Share of *select* images that a trigger must move to be worth purifying against."""

WORKS = 0.8
"""ASR (lower bound) from which a second family's trigger is worth purifying against.

A weaker one is an ordinary perturbation; tuning against it costs accuracy and repairs nothing.
"""


def repair(
    model: PromptTunable,
    probe: ProbeSet,
    finding: Finding,
    settings: RepairSettings,
    *,
    seed: int,
    progress: Progress,
) -> tuple[PurificationRecord, PurifiedHead]:
    """Purify against the inverted triggers of the worst target, then attack the result.

    Args:
        model: the suspect; not changed.
        probe: its *measure* part gives the rates before and after.
        finding: what the detector found, worst candidate first, at least one.
        settings: purifier and searches.
        seed: of the tuning; the re-inversion uses another stream.
        progress: told about each stage.

    Returns:
        The record, without the head's file name, and the head.

    Raises:
        ValueError: the finding has no trigger.
    """
    if not finding.triggers:
        raise ValueError("there is no inverted trigger to purify against")
    worst = finding.record.candidates[0]
    target = probe.class_names.index(worst.target)
    original = class_embeddings(model, probe.class_names, probe.templates)
    generator = torch.Generator().manual_seed(seed)
    search = Search(model, probe, original, target)
    triggers = fresh_triggers(search, _working(finding), settings, generator, progress)
    purifier = PURIFIERS.build(settings.purifier, settings.settings)
    head = purifier.purify(model, probe, triggers, target, generator=generator, progress=progress)
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
    inverter = INVERTERS.build("targeted", settings.targeted)
    found = []
    for done, (name, chosen) in enumerate(jobs):
        job = search.during(progress, f"triggers to purify against ({name})", done, len(jobs))
        family = FAMILIES.build(name, chosen)
        found.append(inverter.invert(job, family, generator=generator))
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
    inverter = INVERTERS.build("targeted", settings.targeted)
    first = {row.family: row.statistic for row in finding.record.families}
    records = []
    for done, name in enumerate(settings.families):
        job = search.during(progress, f"re-inversion ({name})", done, len(settings.families))
        family = FAMILIES.build(name, settings.families[name])
        inversion = inverter.invert(job, family, generator=generator)
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
