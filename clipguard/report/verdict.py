"""The first screen of a report: what was decided, what to do now, why, and about what."""

from __future__ import annotations

from collections.abc import Iterator

from clipguard.errors import REFUSED
from clipguard.record import AuditRecord, Check, Decision, ProbeRecord
from clipguard.record.wording import (
    REFUSALS,
    RESAVE,
    interval,
    model_digest,
    name_of,
    percent,
    rests_on_repair,
    verdict,
)
from clipguard.report.blocks import Block, Fact, Facts, Items, Notes
from clipguard.report.waivers import verified_notes

LONGER = "Let every search run to its end: a larger --budget, or none."
ADD = {
    "audit.complete": "Let the scan run to its end.",
    "audit.budget": LONGER,
    "audit.errors": "Mend what stands under Errors, then scan again.",
    "audit.architecture": "Say with --arch which architecture it is.",
    "audit.folder": "Scan each model file by its own path, or keep one in the folder.",
    "coverage.families": LONGER,
    "coverage.min_clean_accuracy": "Give images and class names that the model is for: "
    "--probe-data and --classnames. It reads too few of these rightly.",
    "coverage.min_profile": "Search with --profile {limit}.",
    "coverage.min_measure_images": "Give more clean images with --probe-data: {value} were "
    "measured on, the policy asks for {limit}.",
    "backdoor.canary": "Scan with --canary, which tries the search on a copy of this model.",
    "backdoor.references": "Give the checkpoint that it was made from as --reference, or list the "
    "digest of yours in the policy.",
    "backdoor.max_change_concentration": "Give the checkpoint that it was made from: --reference.",
    "backdoor.max_unsettled_excess": "Search longer: --profile thorough.",
}
"""What to add where a line of the policy, by its key, cannot tell."""
NO_GROUND = (
    "Give the checkpoint that it was made from: --reference BASE. Without one, make a null band of "
    "known-clean siblings (clipguard calibrate) and give that: --calibration BAND."
)
OTHER_GROUND = (
    "Give another --reference, best the checkpoint that it was made from: on this one no pass may "
    "rest."
)


def verdict_blocks(record: AuditRecord) -> Iterator[Block]:
    """What stands before everything else; it names no method."""
    yield Items(advice(record), "What to do now")
    yield Items(_reasons(record), "Why")
    yield from verified_notes(record)
    if not record.complete and record.refused is None:
        yield Notes(
            ("This audit was cut short. What follows was known when it stopped.",), loud=True
        )
    if record.purification is not None:
        yield Notes((f"Scope of the repair: {record.purification.statement}",), loud=True)
    yield Facts(tuple(_about(record)))


def advice(record: AuditRecord) -> tuple[str, ...]:
    """What to do now, the most important first: release, do not, or what to add to be able to tell.

    Args:
        record: the audit, with its gate or without.
    """
    said, gate = verdict(record), record.gate
    if gate is None:
        return ("Do not release this checkpoint yet: run `clipguard gate` on this record.",)
    if said.exit_code == REFUSED:
        rule = record.refused.rule if record.refused else None
        told = REFUSALS.get(rule or "", f"do not load it; ask whoever made it to {RESAVE}")
        return ("Do not release it.", f"{told[0].upper()}{told[1:]}.")
    counted = [check for check in gate.checks if check.counts]
    if said.decision is Decision.FAIL:
        return _after_fail(record, [one for one in counted if one.result is Decision.FAIL])
    if said.decision is Decision.INCONCLUSIVE:
        unclear = [one for one in counted if one.result is Decision.INCONCLUSIVE]
        return ("Do not release this checkpoint yet.", *_to_add(record, unclear))
    if rests_on_repair(gate):
        return (
            "Release is possible for the repaired model only, within the scope named below.",
            "Do not release the checkpoint itself.",
        )
    met = "met or waived" if any(one.waived for one in gate.checks) else "met"
    return (
        f"Release is possible: every line of the policy {gate.policy} is {met}.",
        "Read what was not tested before you rely on this.",
    )


def _after_fail(record: AuditRecord, failed: list[Check]) -> tuple[str, ...]:
    if any(check.key == "audit.model" for check in failed):
        digest = model_digest(record)
        shown = f", sha256 {digest}" if digest else ""
        return (
            "Do not release the file that was given: this record is about another one.",
            f"Scan that file, or give the one of the record: {name_of(record)}{shown}.",
        )
    if all(check.key.startswith("export.") for check in failed):
        return (
            "Do not release the exported file: it does not do what the model does.",
            "Export again with other versions of torch and onnxruntime; "
            "`clipguard doctor` names yours.",
        )
    made = record.export if record.purification is not None else None
    kept = made is not None and made.kept
    return (
        "Do not release this checkpoint.",
        "Take one from a source that you trust, or train it again from a base that you trust.",
        *(
            (f"{made.file} is a repair, no proof: read its limits before you use it.",)
            if made and kept
            else ()
        ),
    )


def _to_add(record: AuditRecord, unclear: list[Check]) -> tuple[str, ...]:
    """What would let a scan decide, once each."""
    told = dict.fromkeys(
        ADD[one.key].format(value=one.value, limit=one.limit.removeprefix("≥ "))
        for one in unclear
        if one.key in ADD
    )
    # A pass needs something to compare with; everything else matters only after that.
    if record.reference is None and record.calibration.kind == "none":
        told = {NO_GROUND: None, **told}
    elif any(one.key == "backdoor.grounds" for one in unclear):
        told = {OTHER_GROUND: None, **told}
    return (*told,) or ("Change what the reasons name, and scan again.",)


def _reasons(record: AuditRecord) -> tuple[str, ...]:
    """Every reason, without the names of detectors in front."""
    reasons = (record.gate.reasons if record.gate else ()) or (verdict(record).why,)
    return tuple(without_name(record, reason) for reason in reasons)


def without_name(record: AuditRecord, reason: str) -> str:
    """A reason without the name of the detector that it begins with."""
    for detector in record.detectors:
        reason = reason.removeprefix(f"{detector.name}: ")
    return reason


def _about(record: AuditRecord) -> Iterator[Fact]:
    said, gate = verdict(record), record.gate
    yield Fact("Scanned on", f"{record.times.created[:16].replace('T', ' ')} UTC")
    if record.probe is not None:
        yield Fact("Clean accuracy", accuracy(record.probe))
        yield Fact("Class names", f"{record.probe.classes}, from {record.probe.source}")
    if record.refused is None:
        yield Fact("Held against", _ground(record))
    yield Fact("Policy", gate.policy if gate else "none applied")
    if gate:
        yield Fact("sha256 of the policy", gate.policy_sha256, code=True)
    yield Fact("Exit code", str(said.exit_code))
    yield Fact("Made by", f"{record.tool.name} {record.tool.version}")
    if digest := model_digest(record):
        yield Fact("sha256 of the file", digest, code=True)


def accuracy(probe: ProbeRecord) -> str:
    """The clean accuracy, how many images it rests on, and what guessing gives."""
    if probe.clean_accuracy is None:
        return "not measured: true classes unknown"
    guessed = percent(1 / max(probe.classes, 1))
    told = f"{interval(probe.clean_accuracy)} of {probe.clean_accuracy.n} images"
    return f"{told}; guessing: {guessed}"


def _ground(record: AuditRecord) -> str:
    known, band = record.reference, record.calibration
    if known is not None:
        return f"{known.name} ({known.role or 'only its weights'})"
    if band.kind == "models":
        return f"{band.models} known-clean models"
    return "nothing"
