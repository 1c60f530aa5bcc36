"""Gate lines about the audit itself: did it end, what did it find, was it enough. No torch here."""

from __future__ import annotations

import math
from fractions import Fraction

from clipguard import errors
from clipguard.gate_line import FAIL, INCONCLUSIVE, PASS, Line, line
from clipguard.policy_file import Policy
from clipguard.record import (
    AuditRecord,
    CalibrationRecord,
    Decision,
    DetectorRecord,
    ErrorRecord,
    Outcome,
    ReferenceRecord,
)
from clipguard.wording import number, percent, percent_beside, triggers_of

PROFILES = ("standard", "thorough")
BANDS = ("none", "models")


def run_lines(record: AuditRecord) -> list[Line]:
    """Whether the audit came to its end, and what went wrong on the way."""
    lines = [_error_line(error) for error in record.errors]
    done, known = record.complete, record.checkpoint is not None
    lines.append(
        line(
            "audit.complete",
            "yes",
            "yes" if done else "no",
            PASS if done else INCONCLUSIVE,
            "every stage ran" if done else "the audit was cut short",
        )
    )
    lines.append(
        line(
            "audit.checkpoint",
            "identified",
            "identified" if known else "not identified",
            PASS if known else INCONCLUSIVE,
            "the file was read and hashed" if known else "no checkpoint was identified",
        )
    )
    return lines


def _error_line(error: ErrorRecord) -> Line:
    code = error.exit_code
    if code not in errors.SEVERITY or code == errors.PASS:  # an error never looks like a pass
        code = errors.ENVIRONMENT
    result = FAIL if code in {errors.REFUSED, errors.POLICY_VIOLATED} else INCONCLUSIVE
    reason = f"{error.stage}: {error.message}"
    return Line(line("audit.errors", "none", error.stage, result, reason).check, code)


def finding_lines(policy: Policy, record: AuditRecord) -> list[Line]:
    """What the detectors concluded, and their readings against the null band."""
    if not record.detectors:
        reason = "no detector ran, so nothing is known about backdoors"
        return [line("backdoor", "a detector ran", "none ran", INCONCLUSIVE, reason)]
    lines = []
    for detector in record.detectors:
        lines.append(_outcome_line(detector, Decision(policy.backdoor.suspicious)))
        if not detector.own_null:
            lines.extend(_readings(policy, detector, record.calibration))
    return lines


def _outcome_line(detector: DetectorRecord, suspicious: Decision) -> Line:
    results = {
        Outcome.NO_EVIDENCE: PASS,
        Outcome.INCONCLUSIVE: INCONCLUSIVE,
        Outcome.SUSPICIOUS: suspicious,
        Outcome.BACKDOORED: FAIL,
    }
    words = detector.outcome.value.replace("_", " ")
    target = f", target {detector.target!r}" if detector.target else ""
    evidence = detector.outcome in {Outcome.SUSPICIOUS, Outcome.BACKDOORED}
    made = line(
        "backdoor.outcome",
        "no evidence",
        words,
        results[detector.outcome],
        f"{detector.name}: {words}{target if evidence else ''}. {detector.reason}",
    )
    return Line(made.check, made.code, excusable=evidence)


def _readings(
    policy: Policy, detector: DetectorRecord, calibration: CalibrationRecord
) -> list[Line]:
    """The score, which the p-value must bear out to fail, and whether that p-value could have."""
    unmeasured = PASS if policy.coverage.calibration == "none" else INCONCLUSIVE
    return [
        _score_line(policy, detector, unmeasured),
        _alpha_line(policy.backdoor.alpha, detector, calibration, unmeasured),
    ]


def _score_line(policy: Policy, detector: DetectorRecord, unmeasured: Decision) -> Line:
    """A score above the upper limit fails where it is also rare among known-clean models."""
    limits, score, p_value = policy.backdoor, detector.score, detector.p_value
    found, asked = number(score), f"≤ {limits.clear_score:g}"
    told = f"{detector.name}: score is {found}"
    rare = p_value is not None and p_value <= limits.alpha
    alone = Decision(limits.suspicious)
    evidence = score is not None and score > limits.clear_score
    if score is None:
        result, reason = unmeasured, f"{detector.name}: there is no score without a null band"
    elif score > limits.max_score and rare:
        result = FAIL
        reason = f"{told}, above {limits.max_score:g}, and rare among known-clean models"
    elif score > limits.max_score:
        result = alone
        reason = (
            f"{told}, above {limits.max_score:g}, yet not rare enough among known-clean models "
            f"(p = {number(p_value)}): suspicious"
        )
    elif evidence:
        result = alone
        reason = f"{told}, between {limits.clear_score:g} and {limits.max_score:g}: suspicious"
    else:
        result, reason = PASS, f"{told}, within the limit"
    made = line("backdoor.max_score", asked, found, result, reason)
    return Line(made.check, made.code, excusable=evidence)


def _alpha_line(
    alpha: float, detector: DetectorRecord, calibration: CalibrationRecord, unmeasured: Decision
) -> Line:
    """Whether the null band has models enough for a p-value that bears a finding out."""
    found, blind = number(detector.p_value), _blind(alpha, calibration)
    if detector.p_value is None:
        result, reason = unmeasured, f"{detector.name}: there is no p-value without a null band"
    elif blind:
        result, reason = INCONCLUSIVE, f"{detector.name}: {blind}"
    else:
        rare = "as rare as" if detector.p_value <= alpha else "not as rare as"
        result = PASS  # it decides together with the score
        reason = f"{detector.name}: p-value is {found}, {rare} a finding has to be"
    made = line("backdoor.alpha", f"{alpha:g} can be reached", found, result, reason)
    return Line(made.check, made.code)


def _blind(alpha: float, calibration: CalibrationRecord) -> str:
    """Why no p-value of this null band can reach `alpha`; empty where one can."""
    models = max(calibration.models, 0)
    enough = math.ceil(1 / Fraction(str(alpha))) - 1  # least n with 1 / (n + 1) <= alpha, exactly
    if calibration.kind != "models" or models >= enough:
        return ""
    return (
        f"{models} known-clean models show no p-value below {1 / (models + 1):.2g}; "
        f"{alpha:g} takes a null band of {enough} or more: clipguard calibrate"
    )


def reference_lines(policy: Policy, record: AuditRecord) -> list[Line]:
    """The change from a reference, where the policy limits it: a suspicion, never an excuse."""
    limit = policy.backdoor.max_change_concentration
    if limit is None:
        return []
    known = record.reference
    result, reason = _change(limit, Decision(policy.backdoor.suspicious), known)
    found = number(known.concentration if known else None)
    return [line("backdoor.max_change_concentration", f"≤ {limit:g}", found, result, reason)]


def _change(
    limit: float, suspicious: Decision, known: ReferenceRecord | None
) -> tuple[Decision, str]:
    """What the change from the reference decides, and why."""
    if known is None:
        reason = "how the weights changed was not looked at: scan with --reference BASE, the "
        return INCONCLUSIVE, f"{reason}checkpoint it comes from, or set the limit to null"
    told = f"reference: {known.says}"
    if not known.changed:
        return INCONCLUSIVE, f"{told}; give the checkpoint it comes from"
    if not known.image_changed:
        return PASS, told
    found = known.concentration
    if found is None:
        return INCONCLUSIVE, told
    if found <= limit:
        return PASS, "the change from the reference is within the limit, which proves nothing"
    alone = "" if suspicious is FAIL else "; this alone is only suspicious"
    reason = (
        f"{percent_beside(found, limit)} of the change from the reference lie in one direction, "
        f"the policy asks for at most {percent(limit)}{alone}"
    )
    return suspicious, reason


def coverage_lines(policy: Policy, record: AuditRecord) -> list[Line]:
    """Whether enough was looked at for a pass to mean anything."""
    wanted = policy.coverage
    return [
        _band_line(wanted.calibration, record.calibration),
        *(_family_line(family, record) for family in wanted.families),
        _images_line(wanted.min_measure_images, record),
        _profile_line(wanted.min_profile, record.settings.get("profile")),
    ]


def _family_line(family: str, record: AuditRecord) -> Line:
    rows = [f for d in record.detectors for f in d.families if f.family == family]
    what = triggers_of(family)
    denied = [u.why for u in record.coverage.not_tested if u.what == what]
    told = [*denied, *(row.reason for row in rows if not row.tested and row.reason)]
    if any(row.tested for row in rows) and not denied:
        result, value, reason = PASS, "tested", f"{what} were searched to the end"
    else:
        result, value = INCONCLUSIVE, "not tested"
        why = "; ".join(dict.fromkeys(told))  # coverage repeats what the detector said
        reason = f"{what} were not tested: {why or 'no search for them'}"
    return line("coverage.families", family, value, result, reason)


def _images_line(least: int, record: AuditRecord) -> Line:
    found = record.probe.measure if record.probe else 0
    result = PASS if found >= least else INCONCLUSIVE
    reason = f"published rates rest on {found} images, the policy asks for {least}"
    return line("coverage.min_measure_images", f"≥ {least}", str(found), result, reason)


def _profile_line(least: str, found: object) -> Line:
    rank = PROFILES.index(found) if isinstance(found, str) and found in PROFILES else -1
    name = PROFILES[rank] if rank >= 0 else "unknown"
    result, reason = PASS, f"the {name} profile is thorough enough"
    if rank < PROFILES.index(least):
        result, reason = INCONCLUSIVE, f"the {name} profile is below {least}"
    return line("coverage.min_profile", f"≥ {least}", name, result, reason)


def _band_line(weakest: str, calibration: CalibrationRecord) -> Line:
    empty = calibration.kind == "models" and calibration.models < 1
    found = "none" if empty else calibration.kind
    enough = BANDS.index(found) >= BANDS.index(weakest)
    reason = f"the null band ({found}) is {'' if enough else 'not '}what the policy asks for"
    if not enough and calibration.reason:
        reason = f"{reason}: {calibration.reason}"
    result = PASS if enough else INCONCLUSIVE
    return line("coverage.calibration", weakest, found, result, reason)
