"""One line of a gate: a policy key held against what a record says. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipguard import errors
from clipguard.record import Check, Decision, Outcome

PASS, INCONCLUSIVE, FAIL = Decision.PASS, Decision.INCONCLUSIVE, Decision.FAIL
WORD = "backdoor.max_word_pull"
CODES = {
    PASS: errors.PASS,
    INCONCLUSIVE: errors.INCONCLUSIVE,
    FAIL: errors.POLICY_VIOLATED,
}


@dataclass(frozen=True)
class Line:
    """A check on its way to a decision.

    Attributes:
        check: what is shown.
        code: its exit code.
        outcome: what it says about a backdoor; None where it speaks of something else.
    """

    check: Check
    code: int
    outcome: Outcome | None = None

    @property
    def repairable(self) -> bool:
        """Whether it is a finding, which a repair may make good."""
        # no repair changes the text tower, which is where a word in a prompt works
        found = self.outcome in {Outcome.SUSPICIOUS, Outcome.BACKDOORED}
        return found and self.check.key != WORD

    @property
    def passes(self) -> bool:
        """Whether this line alone would let the checkpoint through."""
        return self.check.result is PASS


def finding(
    key: str, limit: str, value: str, outcome: Outcome, reason: str, *, target: str | None = None
) -> Line:
    """A line about a backdoor; what its outcome decides is up to the policy.

    Args:
        key: of the policy.
        limit: as text.
        value: what was measured, as text.
        outcome: what this line says.
        reason: one sentence.
        target: class or trigger family that it is about, if it is about one.
    """
    made = line(key, limit, value, PASS, reason)
    check = made.check.model_copy(update={"target": target})
    return replace(made, check=check, outcome=outcome)


def line(key: str, limit: str, value: str, result: Decision, reason: str) -> Line:
    """A line whose exit code is that of its result."""
    check = Check(key=key, limit=limit, value=value, result=result, reason=reason)
    return Line(check, CODES[result])
