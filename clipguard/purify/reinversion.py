"""The attack on what was repaired: a search for a new trigger towards the same target."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clipguard.detect.null_band import log_odds
from clipguard.detect.roles import Finding
from clipguard.probe.rates import attack_rate, classify, embed
from clipguard.record import ReinversionRecord
from clipguard.registry import name_of
from clipguard.search.roles import Inverter, Progress, Search, TriggerFamily


def reinvert(
    search: Search,
    finding: Finding,
    families: Sequence[TriggerFamily],
    inverter: Inverter,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[ReinversionRecord, ...]:
    """Search every family that the detector measured for a new trigger, as it did.

    Args:
        search: through what was repaired, towards the target that was.
        finding: what the detector had found before.
        families: as in the detector, so that its null band applies.
        inverter: as in the detector.
        generator: of starts and batches; none that anything was tuned with.
        progress: told about each search.
    """
    part, target = search.probe.measure, search.target
    if target is None:
        raise ValueError("a new search needs the target class")
    clean = classify(embed(search.model, part), search.classes)
    rows = finding.record.families
    first = {row.family: row.statistic for row in rows if row.statistic is not None}
    compared = [family for family in families if name_of(family) in first]
    records = []
    for done, family in enumerate(compared):
        name = name_of(family)
        job = search.during(progress, f"re-inversion ({name})", done, len(compared))
        inversion = inverter.invert(job, family, generator=generator)
        read = classify(embed(search.model, part, inversion.trigger.apply), search.classes)
        asr = attack_rate(read, part, clean, target, generator)
        if asr is not None:
            records.append(
                ReinversionRecord(
                    family=name,
                    target=search.probe.class_names[target],
                    asr=asr,
                    statistic=log_odds(asr.value, asr.n),
                    original_statistic=first[name],
                    searched=inversion.searched,
                    settled=inversion.converged,
                )
            )
    return tuple(records)
