"""Gate lines about a model held against a reference. No torch here."""

from __future__ import annotations

from clipguard.policy.document import BackdoorPolicy
from clipguard.policy.line import INCONCLUSIVE, PASS, Line, finding, line
from clipguard.record import (
    Against,
    CanaryRecord,
    Candidate,
    DetectorRecord,
    Outcome,
    ReferenceRecord,
)
from clipguard.record.wording import number, percent, percent_beside

SAME = 1e-3
"""Length of a change, over the reference's, that may be rounding: to float16 it is half of that."""
MOST = 0.5
"""Share of a class's clean images that a reference must read rightly to know the class."""
ROLES = {"base": "the checkpoint that it was made from", "peer": "an unrelated model"}


def pair_lines(
    limits: BackdoorPolicy, detector: DetectorRecord, reference: ReferenceRecord | None
) -> list[Line]:
    """What follows from a differential search.

    Args:
        limits: of the policy.
        detector: what was measured.
        reference: what it was measured against; a record that lost it supports nothing.
    """
    return [
        _score_line(limits, detector),
        _gap_line(limits, detector),
        _wide_line(limits.max_wide_gap, detector),
        _apart_line(limits, detector),
        *_ground_lines(limits, detector, reference),
    ]


def _score_line(limits: BackdoorPolicy, detector: DetectorRecord) -> Line:
    """The score alone: the classes drawn to compare with take the place of a null band."""
    score = detector.score
    told = f"{detector.name}: {detector.evidence}"
    if score is None:
        outcome = Outcome.INCONCLUSIVE
        told += ", and no limit is known for this search and this kind of reference"
    elif score > limits.max_score:
        outcome, told = Outcome.BACKDOORED, f"{told}; score {number(score)}"
        told += f", over the limit of {limits.max_score:g}"
    elif score > limits.clear_score:
        outcome = Outcome.SUSPICIOUS
        told += f"; score {number(score)}, between {limits.clear_score:g} and {limits.max_score:g}"
    else:
        outcome, told = Outcome.NO_EVIDENCE, f"{told}; score {number(score)}, within the limit"
    if detector.excess is not None:
        side = "above" if detector.excess >= 0 else "below"
        told += f"; {number(abs(detector.excess))} deviations {side} the lab's honest models"
    first = next(iter(detector.candidates), None)
    if first and outcome is not Outcome.NO_EVIDENCE and (unknown := _unknown(limits, first)):
        outcome, told = Outcome.INCONCLUSIVE, told + unknown
    asked, about = f"≤ {limits.clear_score:g}", first.target if first else detector.target
    return finding("backdoor.max_score", asked, number(score), outcome, told, target=about)


def _unknown(limits: BackdoorPolicy, row: Candidate) -> str:
    """Why the reference is no measure for the class of a candidate; empty if it is one."""
    if not row.against or _knows(limits, row.against):
        return ""
    told = f"; but the reference does not know the class {row.target!r}: the two models' "
    return told + f"readings of clean images as it correlate by {number(row.against.alike)}"


def _gap_line(limits: BackdoorPolicy, detector: DetectorRecord) -> Line:
    """A small opaque trigger has no business to work on one of two related models only."""
    opaque = [row for row in detector.candidates if row.against and row.against.opaque]
    widest, most = max(opaque, key=_gap, default=None), limits.max_gap
    if widest is None:
        reason = f"{detector.name}: no opaque trigger was searched"
        outcome = Outcome.INCONCLUSIVE
        return finding("backdoor.max_gap", f"≤ {percent(most)}", "not measured", outcome, reason)
    gap = _gap(widest)
    told = f"{detector.name}: a {widest.family} trigger for {widest.target!r} works on "
    told += f"{percent_beside(gap, most)} more images than any on the reference"
    outcome = Outcome.BACKDOORED if gap > most else Outcome.NO_EVIDENCE
    if gap > most and (unknown := _unknown(limits, widest)):
        outcome, told = Outcome.INCONCLUSIVE, told + unknown
    asked, shown = f"≤ {percent(most)}", percent_beside(gap, most)
    return finding("backdoor.max_gap", asked, shown, outcome, told, target=widest.target)


def _wide_line(most: float, detector: DetectorRecord) -> Line:
    """Where V varies much among honest models, a gap that none of them shows still counts."""
    widest = max(detector.candidates, key=_gap, default=None)
    if widest is None:
        reason, outcome = f"{detector.name}: no trigger was searched", Outcome.INCONCLUSIVE
        asked = f"≤ {percent(most)}"
        return finding("backdoor.max_wide_gap", asked, "not measured", outcome, reason)
    gap = _gap(widest)
    told = f"{detector.name}: the widest gap of any trigger is {percent_beside(gap, most)}"
    outcome = Outcome.NO_EVIDENCE
    if gap > most:
        outcome, told = Outcome.SUSPICIOUS, f"{told}, which is suspicious above {percent(most)}"
    asked, shown = f"≤ {percent(most)}", percent_beside(gap, most)
    return finding("backdoor.max_wide_gap", asked, shown, outcome, told, target=widest.target)


def _apart_line(limits: BackdoorPolicy, detector: DetectorRecord) -> Line:
    """Poison moves its target's name, so that clean images are read as it less alike."""
    key, limit = "backdoor.max_apart", f"< {limits.max_apart:g}"
    seen = next((one for one in detector.apart if (one.right or 0) > MOST), None)
    if seen is None:
        what = "clean readings were not compared"
        if detector.apart:
            what = "the reference reads images of none of the classes that lie furthest apart"
        reason = f"{detector.name}: {what}"
        return finding(key, limit, "not measured", Outcome.INCONCLUSIVE, reason)
    far, leads = seen.apart >= limits.max_apart, seen.target == detector.target
    strong = leads and detector.score is not None and detector.score > limits.clear_score
    told = f"{detector.name}: of classes that the reference reads rightly, both read clean images "
    told += f"as {seen.target!r} least alike, {number(seen.apart)} deviations from the others"
    if not far:
        outcome = Outcome.NO_EVIDENCE
    elif strong:
        outcome, told = Outcome.BACKDOORED, f"{told}, and the search leads to this class as well"
    else:
        outcome, told = Outcome.SUSPICIOUS, f"{told}, as the name of a planted target is"
    return finding(key, limit, number(seen.apart), outcome, told, target=seen.target)


def _knows(limits: BackdoorPolicy, seen: Against) -> bool:
    """Whether the reference knows a class: it reads most images of it, or reads it as alike."""
    return (seen.right or 0) > MOST or seen.alike is None or seen.alike >= limits.min_alike


def is_wide(limits: BackdoorPolicy, seen: Against) -> bool:
    """Whether a gap is one that no honest model shows, for a trigger of its kind."""
    return seen.gap > (limits.max_gap if seen.opaque else limits.max_wide_gap)


def _gap(row: Candidate) -> float:
    return row.against.gap if row.against else 0.0


def _ground_lines(
    limits: BackdoorPolicy, detector: DetectorRecord, reference: ReferenceRecord | None
) -> list[Line]:
    """Whether anybody vouches for the reference, and whether a pass may rest on it."""
    role = reference.role if reference else None
    good = role in limits.grounds
    told = f"the reference is {ROLES.get(role or '', 'of no use')}"
    lines = [
        line(
            "backdoor.grounds",
            ", ".join(limits.grounds),
            role or "none",
            PASS if good else INCONCLUSIVE,
            f"{told}, which the policy lets a pass rest on"
            if good
            else f"{told}; the policy lets a pass rest on {' or '.join(limits.grounds)}",
        ),
        _vouched_line(limits, reference),
    ]
    if detector.extrapolated or detector.canary:
        lines.append(_canary_line(limits.max_gap, detector.canary))
    return lines


def _canary_line(most: float, canary: CanaryRecord | None) -> Line:
    """A search whose limits were never tested here must find what was planted to try it."""
    key, limit = "backdoor.canary", f"found, gap > {percent(most)}"
    if canary is None:
        reason = (
            "the limits were never tested on models of this family; scan with --canary, which "
            "plants a backdoor into a copy and looks for it"
        )
        return line(key, limit, "not planted", INCONCLUSIVE, reason)
    planted = canary.asr.value - canary.natural.value > most
    good = planted and canary.found == canary.target and canary.gap > most
    shown = f"{'found' if good else 'missed'}, gap {percent(canary.gap)}"
    told = f"a patch that turns {percent(canary.asr.value)} of the images into {canary.target!r}, "
    told += f"planted into a copy to try the search, was {'found' if good else 'missed'}"
    if not planted:
        told = f"no backdoor took in a copy of the model ({percent(canary.natural.value)} of the "
        told += f"images are read as {canary.target!r} without the patch), so nothing was tried"
    return line(key, limit, shown, PASS if good else INCONCLUSIVE, told)


def _same_tower(reference: ReferenceRecord) -> bool:
    """Whether the image tower is that of the reference but for rounding."""
    near = reference.length is not None and reference.length < SAME
    return reference.tensors > 0 and (not reference.image_changed or near)


def _vouched_line(limits: BackdoorPolicy, reference: ReferenceRecord | None) -> Line:
    key, listed = "backdoor.references", limits.references
    shown = reference.sha256[:12] if reference else "none"
    if listed != "any":
        known = reference is not None and reference.sha256 in listed
        result = PASS if known else INCONCLUSIVE
        reason = (
            "the policy lists the digest of the reference"
            if known
            else "the policy does not list the digest of the reference; add it if you trust it"
        )
        return line(key, f"one of {len(listed)} digests", shown, result, reason)
    same = reference is not None and _same_tower(reference)
    result = INCONCLUSIVE if same or reference is None else PASS
    reason = (
        "the reference has the image tower of the checkpoint, so it hides what that holds; give "
        "the checkpoint that it was made from, or list its digest"
        if same
        else "the policy takes any reference"
    )
    return line(key, "any", shown, result, reason)
