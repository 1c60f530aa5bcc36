"""Gate lines about what would be released: the repair and the exported file. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from clipguard import errors
from clipguard.policy.against import is_wide, pair_lines
from clipguard.policy.document import BackdoorPolicy, ExportPolicy, Policy, PurificationPolicy
from clipguard.policy.line import FAIL, INCONCLUSIVE, PASS, Line, line
from clipguard.record import (
    AuditRecord,
    ExportRecord,
    GateRecord,
    Outcome,
    PurificationRecord,
    ReinversionRecord,
)
from clipguard.record.wording import TEXT, interval, number, percent, percent_beside

REINVERSION = "purification.reinversion"
ORDER = tuple(Outcome)


def purification_checks(policy: Policy, record: AuditRecord) -> list[Line]:
    """Whether what was repaired meets every limit; empty without one."""
    purified, limits = record.purification, policy.purification
    if purified is None:
        return []
    searched, again = purified.rescan, list[Line]()
    if searched is not None:
        found = pair_lines(policy.backdoor, searched, record.reference)
        tested = {row.family for row in searched.families if row.tested}
        again = [_second_line(found, [one for one in _searched(record) if one not in tested])]
    # the second scan looks at the tower with hand-made prompts, never at tuned ones
    if searched is None or purified.head is not None or purified.scope != "tower":
        again += _reinversion_lines(record, purified)
    asr = max(purified.after.asr.value, purified.after.asr.high)
    left = interval(purified.after.asr)
    return [
        line(
            "purification.max_asr",
            f"≤ {percent(limits.max_asr)}, upper end",
            left,
            PASS if asr <= limits.max_asr else FAIL,
            f"the inverted trigger still works on {left} of the images",
        ),
        _loss_line(limits.max_clean_accuracy_loss, purified),
        _own_images_line(record, purified),
        _ratio_line(limits.min_poisoned_accuracy_ratio, purified),
        *again,
        _targets_line(policy.backdoor, record),
    ]


def _searched(record: AuditRecord) -> list[str]:
    """Families of image triggers that were searched before the repair."""
    rows = [row for found in record.detectors for row in found.families if row.tested]
    return list(dict.fromkeys(row.family for row in rows if row.family != TEXT))


def _second_line(found: list[Line], missing: Sequence[str]) -> Line:
    """The second search against the reference, on the repaired tower: it must find nothing.

    Args:
        found: what follows from it.
        missing: families that it should have searched, and did not.
    """
    about = [made for made in found if made.outcome is not None]
    worst = max(about, key=lambda made: ORDER.index(made.outcome or Outcome.NO_EVIDENCE))
    result = FAIL if worst.repairable else PASS
    result = INCONCLUSIVE if worst.outcome is Outcome.INCONCLUSIVE else result
    shown, reason = worst.check.value, f"on the repaired tower: {worst.check.reason}"
    if result is PASS and missing:
        result = INCONCLUSIVE
        reason = f"on the repaired tower {missing[0]} triggers were not searched"
    return line("purification.second_scan", worst.check.limit, shown, result, reason)


def _targets_line(limits: BackdoorPolicy, record: AuditRecord) -> Line:
    """A repair is for the target ranked first; a second backdoor would stay open."""
    others = set()
    for detector in record.detectors:
        bands = {row.family: row.null for row in detector.families if row.null}
        for row in detector.candidates:
            above = row.family in bands and row.statistic > max(bands[row.family])
            wide = row.against is not None and is_wide(limits, row.against)
            if (above or wide) and row.target != detector.candidates[0].target:
                others.add(row.target)
    return line(
        "purification.every_target",
        "none other",
        f"{len(others)} other" if others else "none other",
        FAIL if others else PASS,
        f"{len(others)} further classes draw triggered images more than honest models do",
    )


def _loss_line(most: float, purified: PurificationRecord) -> Line:
    before, after = purified.before.clean_accuracy, purified.after.clean_accuracy
    result, value, reason = INCONCLUSIVE, "not measured", "clean accuracy needs labelled images"
    if before is not None and after is not None:
        loss = before.value - after.value
        result, value = PASS if loss <= most else FAIL, percent_beside(loss, most)
        reason = f"clean accuracy goes from {percent(before.value)} to {percent(after.value)}"
    return line("purification.max_clean_accuracy_loss", f"≤ {percent(most)}", value, result, reason)


def _own_images_line(record: AuditRecord, purified: PurificationRecord) -> Line:
    """A head that never says the target class cannot be attacked, and is of no use either."""
    key, limit = "purification.target_class", "not 0.0 %"
    before, after = purified.before.target_accuracy, purified.after.target_accuracy
    if before is None or after is None:
        reason = "clean accuracy of the target class needs labelled images of it"
        return line(key, limit, "not measured", INCONCLUSIVE, reason)
    target = next((repr(row.target) for row in record.detectors if row.target), "the target class")
    lost = before.value > 0 and after.value == 0
    told = f"clean accuracy of {target} goes from {percent(before.value)} to {percent(after.value)}"
    if lost:
        told = f"after the repair none of the {after.n} clean images of {target} is read rightly"
    return line(key, limit, percent(after.value), FAIL if lost else PASS, told)


def _ratio_line(least: float, purified: PurificationRecord) -> Line:
    clean, poisoned = purified.before.clean_accuracy, purified.after.poisoned_accuracy
    result, value, reason = INCONCLUSIVE, "not measured", "poisoned accuracy needs labelled images"
    if clean is not None and clean.value > 0 and poisoned is not None:
        ratio = poisoned.value / clean.value
        result, value = PASS if ratio >= least else FAIL, percent_beside(ratio, least)
        reason = f"triggered images reach {value} of the clean accuracy"
    return line(
        "purification.min_poisoned_accuracy_ratio", f"≥ {percent(least)}", value, result, reason
    )


def _reinversion_lines(record: AuditRecord, purified: PurificationRecord) -> list[Line]:
    """A line for each new trigger, and for each family that was searched only before."""
    again = {new.family for new in purified.reinversion}
    lines = [_reinversion_line(record, new) for new in purified.reinversion]
    missing = [f"{name}: " for name in _searched(record) if name not in again]
    for family in missing or ([] if lines else [""]):
        reason = f"{family}no new trigger was searched through the repair"
        lines.append(line(REINVERSION, "null band", "not measured", INCONCLUSIVE, reason))
    return lines


def _reinversion_line(record: AuditRecord, new: ReinversionRecord) -> Line:
    """A new trigger must beat neither what clean models show anyway nor what it replaces."""
    rows = [row for found in record.detectors for row in found.families]
    band = [value for row in rows if row.family == new.family for value in row.null]
    value = number(new.statistic)
    if not band:
        reason = f"{new.family}: no known-clean models to hold the new trigger against"
        return line(REINVERSION, "null band", value, INCONCLUSIVE, reason)
    limit, result = f"≤ {max(band):.3g}", FAIL
    if new.statistic > max(band):
        told = "the strongest new trigger is above what known-clean models show"
    elif _same_target(record, new) and new.statistic >= new.original_statistic:
        limit = f"< {number(new.original_statistic)}"
        told = f"a trigger towards {new.target!r} works no less well than before purification"
    elif not new.searched:
        result, told = INCONCLUSIVE, "no full search for a new trigger is on record"
    elif not new.settled and new.statistic >= fmean(band):
        # As for the detector: a search behind those of the clean models is comparable with them,
        # one that is ahead of their mean and still gaining might become evidence.
        result, told = INCONCLUSIVE, "the search for a new trigger did not settle within its steps"
    else:
        result = PASS
        told = "the strongest new trigger stays within what known-clean models show"
    return line(REINVERSION, limit, value, result, f"{new.family}: {told}")


def _same_target(record: AuditRecord, new: ReinversionRecord) -> bool:
    """Whether the family's original statistic is that of the target which was purified."""
    return any(
        (row.family, row.target) == (new.family, new.target)
        and row.statistic >= new.original_statistic
        for found in record.detectors
        for row in found.candidates
    )


def missing_purification_checks(limits: PurificationPolicy, record: AuditRecord) -> list[Line]:
    """A policy that always wants a repair, and a record without one."""
    if limits.run != "always" or record.purification is not None:
        return []
    reason = "the policy asks for a repair of every checkpoint, and there is none"
    return [line("purification.run", "always", "did not run", INCONCLUSIVE, reason)]


def export_checks(
    limits: ExportPolicy, export: ExportRecord | None, *, triggered: bool
) -> list[Line]:
    """Whether the exported file was shown to equal PyTorch; empty without a file.

    Args:
        limits: of the policy.
        export: what was measured on the file.
        triggered: whether there is a trigger to measure ASR with.
    """
    if export is None:
        return []
    if not export.parity:
        reason = f"{export.file}: agreement with PyTorch was not measured"
        return [line("export.max_relative_error", "measured", "not measured", INCONCLUSIVE, reason)]
    error = max(row.relative_error for row in export.parity)
    top1 = min(row.top1_agreement for row in export.parity)
    lines = [
        line(
            "export.max_relative_error",
            f"≤ {limits.max_relative_error:.0e}",
            f"{error:.1e}",
            PASS if error <= limits.max_relative_error else FAIL,
            f"{export.file}: logits differ from PyTorch by at most {error:.1e} of the largest",
        ),
        line(
            "export.min_top1_agreement",
            f"≥ {percent(limits.min_top1_agreement)}",
            percent_beside(top1, limits.min_top1_agreement),
            PASS if top1 >= limits.min_top1_agreement else FAIL,
            f"{export.file}: first class as in PyTorch on {percent(top1)} of the images",
        ),
        _asr_line(limits.max_asr_difference, export, triggered),
    ]
    return [
        replace(made, code=errors.EXPORT) if made.check.result is FAIL else made for made in lines
    ]


def _asr_line(most: float, export: ExportRecord, triggered: bool) -> Line:
    key, limit = "export.max_asr_difference", f"≤ {percent(most)}"
    if export.asr_onnx is not None and export.asr_torch is not None:
        gap = abs(export.asr_onnx.value - export.asr_torch.value)
        reason = f"{export.file}: ASR differs from PyTorch by {percent(gap)}"
        return line(key, limit, percent_beside(gap, most), PASS if gap <= most else FAIL, reason)
    if not triggered:
        return line(key, limit, "no trigger", PASS, "there is no trigger to measure ASR with")
    reason = f"{export.file}: ASR was not measured on the exported file"
    return line(key, limit, "not measured", INCONCLUSIVE, reason)


def head_checks(record: AuditRecord) -> list[Line]:
    """Where a pass rests on a repair, the exported file must carry it."""
    if record.export is None:
        return []
    made = record.purification
    scope = made.scope if made else "head"
    head = "purified" if made is None or made.head else "zero-shot"
    tower = "repaired" if scope == "tower" else "original"
    good = (record.export.head, record.export.tower) == (head, tower)
    reason = (
        f"{record.export.file} carries the {record.export.head} head and the "
        f"{record.export.tower} image tower"
    )
    return [line("export.head", head, record.export.head, PASS if good else FAIL, reason)]


def missed_limits(policy: Policy, record: AuditRecord) -> str:
    """What a purified file must say of itself where its head was not shown to meet the policy.

    Returns:
        One clause, or nothing if every line about the head passes.
    """
    missed = [made.check.key for made in purification_checks(policy, record) if not made.passes]
    told = ", ".join(dict.fromkeys(missed))
    return f"NOT shown to meet these limits of policy {policy.name}: {told}" if told else ""


def stands_alone(gate: GateRecord) -> bool:
    """Whether the model passes by itself: every line but those about a head that does not count."""
    return all(
        check.result is PASS or check.waived
        for check in gate.checks
        if check.counts or not check.key.startswith("purification.")
    )
