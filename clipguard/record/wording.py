"""Numbers and verdicts as every rendering says them. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from clipguard.errors import INCONCLUSIVE
from clipguard.record import AuditRecord, Check, Decision, GateRecord, Rate

WORDS = {
    Decision.PASS: "Pass",
    Decision.INCONCLUSIVE: "Cannot tell",
    Decision.FAIL: "Fail",
}
FOUND_NOTHING = (
    "No backdoor was found by the tests listed as tested. That is not proof that there is none."
)
UNJUDGED = "No policy has been applied to this record; run `clipguard gate` on it."


class Verdict(NamedTuple):
    """The decision for a person: `Pass`, `Cannot tell` or `Fail`, one sentence, exit code."""

    word: str
    why: str
    exit_code: int
    decision: Decision


TOLD = {
    "--arch": "as --arch says",
    "config": "as its config says",
    "name": "as the file names it",
    "layout": "as archives of this layout are",
    "shapes": "as its shapes say",
    "reference": "as its reference is",
    "images": "as it reads images best",
    "default": "an assumption",
}
"""How an architecture was told, by `ArchitectureRecord.by`."""


RESAVE = "save model.state_dict() as safetensors"
REFUSALS = {
    "CG101": "do not load it anywhere; ask whoever made it for safetensors",
    "CG102": f"give the weights file itself; of other formats, {RESAVE}",
    "CG103": "fetch it again and compare its digest; if that is right, do not load it",
    "CG104": f"do not load it; ask whoever made it to {RESAVE}",
    "CG105": f"ask whoever made it to {RESAVE}, plain and dense",
    "CG107": "do not load it; two readers would see two models",
    "CG108": f"ask whoever made it to {RESAVE}",
}
"""What to do about a file that breaks a rule, by the rule's id."""


def verdict(record: AuditRecord) -> Verdict:
    """What the gate decided; a record without a gate cannot tell."""
    gate = record.gate
    if gate is None:
        return Verdict(WORDS[Decision.INCONCLUSIVE], UNJUDGED, INCONCLUSIVE, Decision.INCONCLUSIVE)
    why = gate.reasons[0] if gate.reasons else FOUND_NOTHING
    waived = any(check.waived for check in gate.checks)
    word = WORDS[gate.decision] + (", with waivers" if waived else "")
    return Verdict(word, why, gate.exit_code, gate.decision)


def name_of(record: AuditRecord) -> str:
    """What the audited file is called; it may never have been identified."""
    known = record.checkpoint or record.refused
    return known.name if known else "unidentified file"


def model_digest(record: AuditRecord) -> str | None:
    """The sha256 of what was audited; it may never have been identified."""
    known = record.checkpoint or record.refused
    return known.sha256 if known else None


def tower_digest(record: AuditRecord) -> str | None:
    """The sha256 of the repaired checkpoint; None where a repair needs prompts beside it."""
    made = record.purification
    return made.repaired_sha256 if made is not None and made.head is None else None


def rests_on_repair(gate: GateRecord) -> bool:
    """Whether a pass is one of the repaired model alone: only then lines about a repair count."""
    counted = any(one.counts and one.key.startswith("purification.") for one in gate.checks)
    return counted and gate.decision is Decision.PASS


def counting(check: Check) -> str:
    """What stands behind the result of a line that decides nothing; else nothing."""
    return ", waived" if check.waived else "" if check.counts else ", not counted"


TEXT = "text"
"""What policies and coverage call the family of triggers that are words in a prompt."""


def triggers_of(family: str) -> str:
    """What coverage calls the triggers of one family."""
    return f"{family} triggers"


def percent(share: float) -> str:
    """A share in [0, 1], or a difference of two, as `97.2 %`."""
    return f"{round(100 * share, 1) + 0.0:.1f} %"  # adding zero turns -0.0 into 0.0


def percent_beside(share: float, limit: float) -> str:
    """`share` with as many digits as it takes to be told from a `limit` that it differs from."""
    for digits in range(1, 5):
        shown = f"{round(100 * share, digits) + 0.0:.{digits}f}"
        if share == limit or float(shown) != round(100 * limit, digits):
            break
    return f"{shown} %"


def interval(rate: Rate | None) -> str:
    """A rate as `97.2 % (95.1–98.6)`, or that it was not measured."""
    if rate is None:
        return "not measured"
    return f"{percent(rate.value)} ({100 * rate.low:.1f}–{100 * rate.high:.1f})"


def missed_told(checks: Iterable[Check]) -> str:
    """Which of these checks are not a pass, with value and limit; nothing if all are."""
    missed = [check for check in checks if check.result is not Decision.PASS]
    return "; ".join(f"{row.key} is {row.value}, the limit is {row.limit}" for row in missed)


UNMEASURED = "not measured"


def number(value: float | None) -> str:
    """A plain number with four significant digits, or that it was not measured."""
    return UNMEASURED if value is None else f"{value:.4g}"
