"""Gate lines about what would be released: the purified head and the exported file. No torch."""

from __future__ import annotations

from dataclasses import replace

from clipguard import errors
from clipguard.gate_line import FAIL, INCONCLUSIVE, PASS, Line, line
from clipguard.policy_file import ExportPolicy, PurificationPolicy
from clipguard.record import AuditRecord, ExportRecord, PurificationRecord
from clipguard.wording import interval, number, percent


def purification_lines(limits: PurificationPolicy, record: AuditRecord) -> list[Line]:
    """Whether the purified head meets every limit; empty without one."""
    purified = record.purification
    if purified is None:
        return []
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
        _ratio_line(limits.min_poisoned_accuracy_ratio, purified),
        *_reinversion_lines(record, purified),
        _targets_line(record),
    ]


def _targets_line(record: AuditRecord) -> Line:
    """A head is tuned for the target ranked first; a second backdoor would stay open."""
    others = set()
    for detector in record.detectors:
        bands = {row.family: row.null for row in detector.families if row.null}
        for row in detector.candidates:
            above = row.family in bands and row.statistic > max(bands[row.family])
            if above and row.target != detector.target:
                others.add(row.target)
    return line(
        "purification.every_target",
        "none other",
        f"{len(others)} other" if others else "none other",
        FAIL if others else PASS,
        f"{len(others)} further classes draw triggered images more than on any clean model",
    )


def _loss_line(most: float, purified: PurificationRecord) -> Line:
    before, after = purified.before.clean_accuracy, purified.after.clean_accuracy
    result, value, reason = INCONCLUSIVE, "not measured", "clean accuracy needs labelled images"
    if before is not None and after is not None:
        loss = before.value - after.value
        result, value = PASS if loss <= most else FAIL, percent(loss)
        reason = f"clean accuracy goes from {percent(before.value)} to {percent(after.value)}"
    return line("purification.max_clean_accuracy_loss", f"≤ {percent(most)}", value, result, reason)


def _ratio_line(least: float, purified: PurificationRecord) -> Line:
    clean, poisoned = purified.before.clean_accuracy, purified.after.poisoned_accuracy
    result, value, reason = INCONCLUSIVE, "not measured", "poisoned accuracy needs labelled images"
    if clean is not None and clean.value > 0 and poisoned is not None:
        ratio = poisoned.value / clean.value
        result, value = PASS if ratio >= least else FAIL, percent(ratio)
        reason = f"triggered images reach {value} of the clean accuracy"
    return line(
        "purification.min_poisoned_accuracy_ratio", f"≥ {percent(least)}", value, result, reason
    )


def _reinversion_lines(record: AuditRecord, purified: PurificationRecord) -> list[Line]:
    """A new trigger through the purified head must not beat what clean models show anyway."""
    key, lines = "purification.reinversion", []
    for new in purified.reinversion:
        band = [
            value
            for detector in record.detectors
            for row in detector.families
            if row.family == new.family
            for value in row.null
        ]
        if not band:
            reason = f"{new.family}: no known-clean models to hold the new trigger against"
            lines.append(line(key, "null band", number(new.statistic), INCONCLUSIVE, reason))
            continue
        below = new.statistic <= max(band) and new.statistic < new.original_statistic
        words = "stays within" if below else "is above"
        reason = f"{new.family}: the strongest new trigger {words} what known-clean models show"
        limit = f"≤ {max(band):.3g}"
        lines.append(line(key, limit, number(new.statistic), PASS if below else FAIL, reason))
    if not lines:
        reason = "no new trigger was searched through the purified head"
        lines.append(line(key, "null band", "not measured", INCONCLUSIVE, reason))
    return lines


def missing_purification_lines(limits: PurificationPolicy, record: AuditRecord) -> list[Line]:
    """A policy that always wants a purified head, and a record without one."""
    if limits.run != "always" or record.purification is not None:
        return []
    reason = "the policy asks for a purified head of every checkpoint, and there is none"
    return [line("purification.run", "always", "did not run", INCONCLUSIVE, reason)]


def export_lines(limits: ExportPolicy, record: AuditRecord) -> list[Line]:
    """Whether the exported file was shown to equal PyTorch; empty without a file."""
    export = record.export
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
            percent(top1),
            PASS if top1 >= limits.min_top1_agreement else FAIL,
            f"{export.file}: first class as in PyTorch on {percent(top1)} of the images",
        ),
        _asr_line(limits.max_asr_difference, record, export),
    ]
    return [
        replace(made, code=errors.EXPORT) if made.check.result is FAIL else made for made in lines
    ]


def _asr_line(most: float, record: AuditRecord, export: ExportRecord) -> Line:
    key, limit = "export.max_asr_difference", f"≤ {percent(most)}"
    if export.asr_onnx is not None and export.asr_torch is not None:
        gap = abs(export.asr_onnx.value - export.asr_torch.value)
        reason = f"{export.file}: ASR differs from PyTorch by {percent(gap)}"
        return line(key, limit, percent(gap), PASS if gap <= most else FAIL, reason)
    if not any(detector.candidates for detector in record.detectors):
        return line(key, limit, "no trigger", PASS, "there is no trigger to measure ASR with")
    reason = f"{export.file}: ASR was not measured on the exported file"
    return line(key, limit, "not measured", INCONCLUSIVE, reason)


def head_lines(record: AuditRecord) -> list[Line]:
    """Where a pass rests on the purified head, the exported file must carry that head."""
    if record.export is None:
        return []
    good = record.export.head == "purified"
    reason = f"{record.export.file} carries the {record.export.head} head"
    return [line("export.head", "purified", record.export.head, PASS if good else FAIL, reason)]
