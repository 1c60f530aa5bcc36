"""What a policy made of a record: every line, every reason, every waiver."""

from __future__ import annotations

from typing import Literal

from clipguard.record.base import Decision, Outcome, Part, Severity, Sha256


class Check(Part):
    """One line of the policy, held against the record.

    Attributes:
        key: policy key, for example `backdoor.max_score`.
        limit: the policy's limit, as text.
        value: what was measured, as text.
        result: what this line alone decides.
        reason: one sentence.
        counts: whether the decision rests on this line; false for a finding that a purified
            head makes good, for purification limits nothing was let pass on, and for a line
            that is waived.
        target: class or trigger family that the line is about; null if it is about none, and in
            older records.
        severity: how loud formats show it; null for a pass, and in older records.
        waived: whether a person took responsibility for it, see `GateRecord.waivers`.
    """

    key: str
    limit: str
    value: str
    result: Decision
    reason: str
    counts: bool = True
    target: str | None = None
    severity: Severity | None = None
    waived: bool = False


class WaiverRecord(Part):
    """A line that somebody takes responsibility for, and what became of it here.

    Attributes:
        check: policy key of the line.
        target: class or trigger family that the line must be about; null for a line about none.
        sha256: digest of the one model that it is for.
        reason: why the line does not stop the release.
        owner: who says so.
        expires: last day on which it holds, ISO 8601.
        ticket: where it was discussed.
        state: `used`, `unused` (no line of this model needs it), `expired`, `other_model` or
            `too_broad` (holds for too long, for a line that nobody may waive, or for any class).
        why: what is too broad about it; empty otherwise.
    """

    check: str
    target: str | None = None
    sha256: Sha256
    reason: str
    owner: str
    expires: str
    ticket: str = ""
    state: Literal["used", "unused", "expired", "other_model", "too_broad"]
    why: str = ""


class Conclusion(Part):
    """What the policy concludes from one detector's measurements.

    Attributes:
        detector: its name.
        outcome: the most serious of all lines about it.
        reason: one sentence a person can act on.
    """

    detector: str
    outcome: Outcome
    reason: str


class GateRecord(Part):
    """The decision, every reason for it, and the exit code.

    Attributes:
        policy: name of the policy.
        policy_sha256: digest of the policy file.
        decision: pass, fail or inconclusive.
        reasons: every reason why the decision is not a pass.
        checks: every line of the policy that was held against the record.
        exit_code: exit code of this model alone, the worst of every line's.
        conclusions: what follows from each detector, in their order.
        waivers: every waiver that was given, and what became of it.
        waivers_sha256: digest of the file with the waivers.
        verified: whether a file was given again and is the one of the record; false if none was;
            null where the scan itself decided.
    """

    policy: str
    policy_sha256: Sha256
    decision: Decision
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    exit_code: int
    conclusions: tuple[Conclusion, ...] = ()
    waivers: tuple[WaiverRecord, ...] = ()
    waivers_sha256: Sha256 | None = None
    verified: bool | None = None
