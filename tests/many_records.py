"""Three dozen records of every kind, made in memory: what a format may have to render."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path

from canaries import PAYLOADS, poisoned
from samples import (
    HOSTILE,
    RECORDS,
    candidate,
    dropped,
    failing,
    guilty_detector,
    held_against,
    judged,
    rate,
    refused,
    unjudged,
)

from clipguard.policy.judge import Waivers, judge, load_policy
from clipguard.policy.waivers import Waiver
from clipguard.record import AuditRecord, CoverageRecord, ErrorRecord, PowerRecord
from clipguard.record.schema import read_record

OLD = Path(__file__).parent / "records" / "audit-1.json"
TODAY = date(2026, 6, 1)
REASON = "a natural trigger\n::error::<b>&]]>"


def waiver(check: str, expires: date = date(2026, 7, 1), sha256: str = "5f" * 32) -> Waiver:
    return Waiver(
        check=check,
        target="hot air balloon",
        sha256=sha256,
        reason=REASON,
        owner="vision team",
        expires=expires,
        ticket="SEC-7",
    )


def waived(*rows: Waiver) -> AuditRecord:
    """A failing record, decided with waivers."""
    record = unjudged(detectors=(guilty_detector(),))
    given = Waivers(rows, "ef" * 32, TODAY)
    return record.model_copy(update={"gate": judge(load_policy("default"), record, given)})


def wholly_waived() -> AuditRecord:
    """Both of its lines are waived, and two more waivers are of no use."""
    return waived(
        waiver("backdoor.max_score"),
        waiver("backdoor.strong_asr"),
        waiver("backdoor.max_gap"),
        waiver("backdoor.alpha", expires=date(2026, 5, 1)),
        waiver("audit.complete"),
        waiver("backdoor.max_score", sha256="ab" * 32),
    )


def thousand() -> AuditRecord:
    """A target for each of a thousand classes."""
    rows = tuple(candidate(f"class {n}", "patch", n / 1000) for n in range(1000))
    return judged(unjudged(detectors=(guilty_detector().model_copy(update={"candidates": rows}),)))


def named(name: str) -> AuditRecord:
    record = failing()
    known = record.checkpoint.model_copy(update={"name": name})
    return record.model_copy(update={"checkpoint": known, "location": f"models/{name}"})


def broken(code: int) -> AuditRecord:
    return judged(unjudged(errors=(ErrorRecord(stage="load", message="m", exit_code=code),)))


def powerful() -> AuditRecord:
    rows = (PowerRecord(attack="badnets", side="test", failed=rate(0.5, 12)),)
    return judged(unjudged(coverage=CoverageRecord(power=rows)))


def unread() -> AuditRecord:
    """Refused, and of an unknown digest."""
    record = refused()
    gone = record.refused.model_copy(update={"sha256": None, "size_bytes": None, "rule": None})
    return record.model_copy(update={"refused": gone})


def _payload(number: int) -> AuditRecord:
    return judged(poisoned(PAYLOADS[number], "alone"))


def _made() -> Iterator[tuple[str, Callable[[], AuditRecord]]]:
    yield from RECORDS.items()
    yield "old", lambda: read_record(OLD)
    yield "dropped", dropped
    yield "against", lambda: judged(held_against())
    yield "strict", lambda: judged(unjudged(), "strict")
    yield "research", lambda: judged(unjudged(), "research")
    yield "waived", wholly_waived
    yield "half waived", lambda: waived(waiver("backdoor.max_score"))
    yield "thousand", thousand
    yield "power", powerful
    yield "unread", unread
    yield "cut short", lambda: judged(unjudged(complete=False))
    yield "nothing", lambda: judged(unjudged(complete=False, checkpoint=None, probe=None))
    for code in (5, 6, 7, 130, 999):
        yield f"error {code}", partial(broken, code)
    for number in (0, 20, 21, 24, 31, 34, 41, 58):
        yield f"payload {number}", partial(_payload, number)
    yield "payload, with a reference", lambda: poisoned(PAYLOADS[7], "reference")
    for number in (0, 3, 5, 7):
        yield f"name {number}", partial(named, HOSTILE[number])


MANY = dict(_made())
WITH_DIGEST = [name for name in MANY if name not in ("unread", "nothing")]
