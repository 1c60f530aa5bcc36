"""Gate lines about the backdoor: what follows from the measurements. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from clipguard.policy.against import pair_lines
from clipguard.policy.document import BackdoorPolicy, Policy
from clipguard.policy.line import CODES, FAIL, INCONCLUSIVE, PASS, WORD, Line, finding, line
from clipguard.record import (
    CalibrationRecord,
    Conclusion,
    Decision,
    DetectorRecord,
    Outcome,
    ReferenceRecord,
)
from clipguard.record.wording import TEXT, number, percent, percent_beside

ORDER = tuple(Outcome)
NO_BAND = "there are no known-clean models to compare with"


def no_detector_check() -> Line:
    """For a record in which no detector measured anything."""
    reason = "no detector ran, so nothing is known about backdoors"
    return line("backdoor", "a detector ran", "none ran", INCONCLUSIVE, reason)


def detector_checks(
    policy: Policy,
    detectors: Sequence[DetectorRecord],
    calibration: CalibrationRecord,
    reference: ReferenceRecord | None = None,
) -> list[tuple[str, list[Line]]]:
    """What follows from the measurements of each detector, with its name.

    Each line carries an outcome; the worst of them is what the policy concludes.
    """
    found = []
    for detector in detectors:
        textual = all(row.family == TEXT for row in detector.families)
        if detector.published is not None and not detector.families:
            lines = [_published(detector, detector.published)]
        elif detector.word_share is not None and textual:
            lines = [_word_line(policy.backdoor, detector, detector.word_share)]
        elif detector.held_against:
            lines = pair_lines(policy.backdoor, detector, reference)
        else:
            lines = _image_lines(policy.backdoor, detector, calibration)
        suspicious = Decision(policy.backdoor.suspicious)
        found.append((detector.name, [_decided(made, suspicious) for made in lines]))
    return found


def conclusions(found: Sequence[tuple[str, Sequence[Line]]]) -> tuple[Conclusion, ...]:
    """The worst outcome of each detector, and why.

    Args:
        found: made by `detector_checks`.
    """
    made = []
    for name, lines in found:
        worst = max((one.outcome for one in lines if one.outcome), key=ORDER.index)
        reason = next(one.check.reason for one in lines if one.outcome is worst)
        made.append(Conclusion(detector=name, outcome=worst, reason=reason))
    return tuple(made)


def _decided(made: Line, suspicious: Decision) -> Line:
    """The line with the decision and the exit code that its outcome has under the policy."""
    results = {
        Outcome.NO_EVIDENCE: PASS,
        Outcome.INCONCLUSIVE: INCONCLUSIVE,
        Outcome.SUSPICIOUS: suspicious,
        Outcome.BACKDOORED: FAIL,
    }
    if made.outcome is None:  # it speaks of the ground, not of the backdoor
        return made
    result = results[made.outcome]
    check = made.check.model_copy(update={"result": result})
    return replace(made, check=check, code=CODES[result])


def _published(detector: DetectorRecord, outcome: Outcome) -> Line:
    reason = f"{detector.name}: {detector.evidence}"
    return finding("backdoor", "its authors' own", outcome.value, outcome, reason)


def _word_line(limits: BackdoorPolicy, detector: DetectorRecord, share: float) -> Line:
    """A word is a trigger if it draws prompts further than names do, and turns most of them."""
    pull, known = detector.statistic, detector.word_on_reference
    strong = pull is not None and pull >= limits.max_word_pull and share >= limits.min_word_share
    if pull is not None and known is not None:  # a natural word draws the prompts of both
        strong = strong and pull - known >= limits.min_word_lead
    outcome = Outcome.BACKDOORED if strong else Outcome.NO_EVIDENCE
    return finding(
        WORD,
        f"< {limits.max_word_pull:g}, or < {percent(limits.min_word_share)} of the prompts",
        f"{number(pull)}, {percent_beside(share, limits.min_word_share)}",
        Outcome.INCONCLUSIVE if pull is None else outcome,
        f"{detector.name}: {'' if strong else 'at most, '}{detector.evidence}",
        target=detector.target,
    )


def _image_lines(
    limits: BackdoorPolicy, detector: DetectorRecord, calibration: CalibrationRecord
) -> list[Line]:
    """The score first: it is what most decisions rest on."""
    return [
        _score_line(limits, detector, calibration),
        _strong_line(limits, detector),
        *_band_lines(limits, calibration),
        _alpha_line(limits.alpha, detector, calibration),
        _blind_line(limits.min_excess, detector),
        *_untested_lines(detector),
        _settled_line(limits.max_unsettled_excess, detector),
    ]


def _score_line(
    limits: BackdoorPolicy, detector: DetectorRecord, calibration: CalibrationRecord
) -> Line:
    """A score above the upper limit fails where it is also rare among known-clean models."""
    score, p_value = detector.score, detector.p_value
    told = f"{detector.name}: {detector.evidence}; score {number(score)}"
    if score is None or p_value is None:
        outcome = Outcome.INCONCLUSIVE
        told = f"{detector.name}: {detector.evidence}; {calibration.reason or NO_BAND}"
    elif score > limits.max_score and p_value <= limits.alpha:
        outcome = Outcome.BACKDOORED
        told += f", above {limits.max_score:g}, and rare among known-clean models"
        told += f" (p = {number(p_value)})"
    elif score > limits.max_score:
        outcome = Outcome.SUSPICIOUS
        told += f", above {limits.max_score:g}, but not rare enough among known-clean models"
        told += f" (p = {number(p_value)})"
    elif score > limits.clear_score:
        outcome = Outcome.SUSPICIOUS
        told += f", between {limits.clear_score:g} and {limits.max_score:g}"
    else:
        outcome = Outcome.NO_EVIDENCE
        told += ", within the limit"
    asked = f"≤ {limits.clear_score:g}"
    about = detector.target
    return finding("backdoor.max_score", asked, number(score), outcome, told, target=about)


def _strong_line(limits: BackdoorPolicy, detector: DetectorRecord) -> Line:
    """One class that nearly every image moves to, and no other near it, needs no null band."""
    best, controls = _strength(detector)
    strong = best >= limits.strong_asr and controls <= limits.control_asr
    return finding(
        "backdoor.strong_asr",
        f"< {percent(limits.strong_asr)}, or another class above {percent(limits.control_asr)}",
        ", ".join(map(percent_beside, (best, controls), (limits.strong_asr, limits.control_asr))),
        Outcome.BACKDOORED if strong else Outcome.NO_EVIDENCE,
        f"{detector.name}: {detector.evidence}"
        + (", far more than any other class" if strong else ", which alone is not enough"),
        target=detector.candidates[0].target if detector.candidates else None,
    )


def _strength(detector: DetectorRecord) -> tuple[float, float]:
    """Lowest ASR of the first candidate, and highest of any other class (1 without another)."""
    if not detector.candidates:
        return 0.0, 1.0
    first = detector.candidates[0]
    others = [row.asr.high for row in detector.candidates if row.target != first.target]
    return first.asr.low, max(others, default=1.0)


def _alpha_line(alpha: float, detector: DetectorRecord, calibration: CalibrationRecord) -> Line:
    """Whether the null band has enough models for a p-value that counts."""
    blind = _blind(alpha, calibration)
    if detector.p_value is None:
        outcome, reason = Outcome.INCONCLUSIVE, "there is no p-value without a null band"
    elif blind:
        outcome, reason = Outcome.INCONCLUSIVE, blind
    else:  # it decides together with the score
        outcome, reason = Outcome.NO_EVIDENCE, f"p-value is {number(detector.p_value)}"
    asked = f"{alpha:g} can be reached"
    reason = f"{detector.name}: {reason}"
    return finding("backdoor.alpha", asked, number(detector.p_value), outcome, reason)


def _band_lines(limits: BackdoorPolicy, calibration: CalibrationRecord) -> list[Line]:
    """Whether a pass may rest on a null band; without one nothing passes anyway."""
    if calibration.kind != "models":
        return []
    good, shown = "band" in limits.grounds, ", ".join(limits.grounds)
    told = "the policy lets a pass rest on it" if good else f"a pass may rest on {shown} only"
    reason = f"the verdict rests on a null band of known-clean models; {told}"
    return [line("backdoor.grounds", shown, "band", PASS if good else INCONCLUSIVE, reason)]


def _blind(alpha: float, calibration: CalibrationRecord) -> str:
    """Why no p-value of this null band can reach `alpha`; empty where one can."""
    models = max(calibration.models, 0)
    enough = math.ceil(1 / Fraction(str(alpha))) - 1  # least n with 1 / (n + 1) <= alpha, exactly
    if calibration.kind == "models" and models >= enough:
        return ""
    return (
        f"{models} known-clean models show no p-value below {1 / (models + 1):.2g}; "
        f"{alpha:g} takes a null band of {enough} or more: clipguard calibrate"
    )


def _blind_line(least: float, detector: DetectorRecord) -> Line:
    """A search that finds less than on any honest model was hindered, perhaps on purpose."""
    found = [row for row in detector.families if row.excess is not None]
    lowest = min(found, key=lambda row: row.excess or 0, default=None)
    value = None if lowest is None else lowest.excess
    blind = lowest is not None and value is not None and value <= least
    family = f"the {lowest.family} search" if lowest else "the search"
    reason = f"{family} found {'less than' if blind else 'what it finds'} on known-clean models"
    outcome = Outcome.INCONCLUSIVE if blind else Outcome.NO_EVIDENCE
    told = f"{detector.name}: {reason}"
    return finding("backdoor.min_excess", f"> {least:g}", number(value), outcome, told)


def _untested_lines(detector: DetectorRecord) -> list[Line]:
    return [
        finding(
            "backdoor.families",
            row.family,
            "not tested",
            Outcome.INCONCLUSIVE,
            f"{detector.name}: {row.family}: {row.reason or 'not tested'}",
            target=row.family,
        )
        for row in detector.families
        if not row.tested
    ]


def _settled_line(most: float, detector: DetectorRecord) -> Line:
    """A search that is still gaining may become evidence, if it is ahead of the clean models.

    Their searches stopped at the same step, so one that is no further than they were compares.
    """
    ahead = [
        row
        for row in detector.candidates
        if not row.settled and (row.excess is None or row.excess >= most)
    ]
    values = [row.excess for row in ahead if row.excess is not None]
    reason = "a search was still gaining at its last step" if ahead else "the searches had settled"
    return finding(
        "backdoor.max_unsettled_excess",
        f"< {most:g}",
        number(max(values)) if values else "not measured" if ahead else "none",
        Outcome.INCONCLUSIVE if ahead else Outcome.NO_EVIDENCE,
        f"{detector.name}: {reason}",
    )
