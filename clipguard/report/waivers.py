"""What a report says of waivers, and of the file that a record is about."""

from __future__ import annotations

from collections.abc import Iterator

from clipguard.record import AuditRecord
from clipguard.report.blocks import Block, Cell, Notes, Table

STATES = {
    "used": "used: the line does not count",
    "unused": "unused: no line of this model needs it",
    "expired": "EXPIRED: it changes nothing",
    "other_model": "for another model: it changes nothing",
    "too_broad": "BROADER THAN ALLOWED: it changes nothing",
}
ORDER = tuple(STATES)


def waiver_blocks(record: AuditRecord) -> Iterator[Block]:
    """Every waiver that was given, those that were used first."""
    given = record.gate.waivers if record.gate else ()
    rows = tuple(
        (
            Cell(STATES[row.state] + (f" ({row.why})" if row.why else "")),
            Cell(row.check, more=row.reason),
            Cell("none" if row.target is None else row.target),
            Cell(row.sha256[:12]),
            Cell(row.owner),
            Cell(row.expires),
            Cell(row.ticket or "none"),
            Cell(row.reason),
        )
        for row in sorted(given, key=lambda row: ORDER.index(row.state))
    )
    head = ("State", "Check", "Class or family", "Model", "Owner", "Last day", "Ticket", "Reason")
    if rows:
        yield Table("Lines that somebody takes responsibility for", head, rows, name=1)


def verified_notes(record: AuditRecord) -> Iterator[Notes]:
    """That a record came alone, or with its file; nothing where the scan itself decided."""
    gate = record.gate
    verified = gate.verified if gate else None
    if gate and any(check.key == "audit.model" for check in gate.checks) and not verified:
        return  # it was compared, and that is a reason already
    if verified is False:
        yield Notes(
            (
                "Not verified: nobody compared this record with the file that goes out. "
                "`clipguard gate --model FILE` does.",
            ),
            loud=True,
        )
    elif verified:
        yield Notes(("The file that was given is the one that this record is about.",))
