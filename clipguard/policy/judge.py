"""The gate: hold a record against a policy and name every reason. No torch here.

`judge` is a pure function of the policy and of what the record says: it can be run again, on
another machine, with another policy. Three kinds of lines make a decision. *Findings* speak about
the backdoor; *purification* lines count only where a repair may turn a finding into a pass;
everything else says whether enough was looked at and whether what is released was proven.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from clipguard import errors
from clipguard.policy.coverage import (
    coverage_checks,
    file_checks,
    reference_checks,
    refused_checks,
    run_checks,
)
from clipguard.policy.document import (
    Policy,
    load_policy,
    policy_path,
    read_policy_text,
    shipped_policies,
)
from clipguard.policy.findings import conclusions, detector_checks, no_detector_check
from clipguard.policy.line import FAIL, Line
from clipguard.policy.release import (
    export_checks,
    head_checks,
    missing_purification_checks,
    purification_checks,
)
from clipguard.policy.waivers import Waivers, Waiving, load_waivers
from clipguard.record import (
    AuditRecord,
    CalibrationRecord,
    Conclusion,
    Decision,
    DetectorRecord,
    GateRecord,
    Outcome,
    Severity,
)

__all__ = [
    "Policy",
    "Waivers",
    "conclude",
    "judge",
    "load_policy",
    "load_waivers",
    "policy_path",
    "read_policy_text",
    "shipped_policies",
]

SCOPE = (
    "only the zero-shot classifier of this class list is repaired; the image tower stays poisoned"
)
WORST_FIRST = (Decision.FAIL, Decision.INCONCLUSIVE, Decision.PASS)


def judge(
    policy: Policy,
    record: AuditRecord,
    waivers: Waivers | None = None,
    files: Collection[str] | None = None,
) -> GateRecord:
    """Decide about `record`.

    A file that was refused fails, whatever else is known. Any line that fails makes a fail, any
    inconclusive line an inconclusive, and a pass needs every line. A gate that the record already
    carries is ignored. A line that is waived stays as it is and does not count.

    Args:
        policy: limits and required coverage.
        record: what the audit measured.
        waivers: lines that somebody takes responsibility for.
        files: sha256 digests of files of which one must be that of the record; empty where a record
            came alone, None where the scan itself decides.

    Returns:
        Decision, every line, every reason that is not a pass, and the exit code.
    """
    waive = Waiving(waivers, record.checkpoint.sha256 if record.checkpoint else None)
    if record.refused is not None:
        about = file_checks(files or (), record)
        refused = _gate(policy, [*about, *refused_checks(record.refused, record)], (), waive)
        return refused.model_copy(update={"verified": _verified(files, about)})
    found = detector_checks(policy, record.detectors, record.calibration, record.reference)
    findings = waive([made for _, lines in found for made in lines])
    purified = purification_checks(policy, record)
    unwaived = [made for made in findings if made.check.counts]
    against = [made for made in unwaived if made.repairable and not made.passes]
    relied_on = bool(against) and policy.purification.repaired_may_pass
    repaired = relied_on and bool(purified) and all(made.passes for made in purified)
    about = file_checks(files or (), record, repaired=repaired)
    triggered = any(detector.candidates for detector in record.detectors)
    lines = [
        *about,
        *run_checks(record),
        *(() if findings else (no_detector_check(),)),
        *waive(coverage_checks(policy, record)),
        *(_counting(made, False) if repaired and made.repairable else made for made in findings),
        *waive(reference_checks(policy, record)),
        *(_counting(made, relied_on) for made in purified),
        *missing_purification_checks(policy.purification, record),
        *export_checks(policy.export, record.export, triggered=triggered),
        *(head_checks(record) if repaired else ()),
    ]
    told = _repaired(record, against) if repaired else []
    gate = _gate(policy, lines, conclusions(found), waive, told)
    return gate.model_copy(update={"verified": _verified(files, about)})


def _verified(files: Collection[str] | None, about: Sequence[Line]) -> bool | None:
    return None if files is None else bool(about) and about[0].passes


def _gate(
    policy: Policy,
    lines: list[Line],
    concluded: tuple[Conclusion, ...],
    waive: Waiving,
    told: Sequence[str] = (),
) -> GateRecord:
    counted = [made for made in lines if made.check.counts]
    return GateRecord(
        policy=policy.name,
        policy_sha256=policy.sha256,
        decision=min((made.check.result for made in counted), key=WORST_FIRST.index),
        reasons=(*_reasons(counted), *told, *waive.told),
        checks=tuple(
            made.check.model_copy(update={"severity": _severity(policy, made)}) for made in lines
        ),
        exit_code=errors.worst_exit_code([made.code for made in counted]),
        conclusions=concluded,
        waivers=waive.records(),
        waivers_sha256=waive.given.sha256 if waive.given else None,
    )


def _severity(policy: Policy, made: Line) -> Severity | None:
    """How loud a line is to be shown; nothing for one that passes."""
    levels, key = policy.severity, made.check.key
    if made.passes:
        return None
    if key.startswith("purification."):
        return levels.repair
    if made.check.result is not FAIL and made.outcome is not Outcome.SUSPICIOUS:
        return levels.unknown
    if key.startswith("audit."):
        return levels.refused
    if key.startswith("export."):
        return levels.export
    return levels.backdoored if made.outcome is Outcome.BACKDOORED else levels.suspicious


def conclude(
    policy: Policy, detectors: Sequence[DetectorRecord], calibration: CalibrationRecord
) -> tuple[Conclusion, ...]:
    """What follows from measurements alone, without a decision about a release."""
    return conclusions(detector_checks(policy, detectors, calibration))


def _counting(made: Line, counts: bool) -> Line:
    return replace(made, check=made.check.model_copy(update={"counts": counts}))


def _reasons(lines: list[Line]) -> list[str]:
    """Why these lines do not pass, failures first."""
    against = [made.check for made in lines if not made.passes]
    return [check.reason for check in sorted(against, key=lambda c: WORST_FIRST.index(c.result))]


def _repaired(record: AuditRecord, against: list[Line]) -> list[str]:
    """What a pass on a repair rests on, and what it passes over."""
    scope = (record.purification.statement if record.purification else "") or SCOPE
    return [
        f"On the repair alone: {scope}",
        *(f"made good by the repair: {made.check.reason}" for made in against),
    ]
