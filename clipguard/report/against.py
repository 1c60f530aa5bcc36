"""What a report says of a model and its reference."""

from __future__ import annotations

from collections.abc import Iterator

from clipguard.record import AuditRecord, Candidate
from clipguard.record.wording import interval, number, percent
from clipguard.report.blocks import Block, Cell, Fact, Facts, Notes, Table, measured

SHOWN = 3
"""Classes that lie furthest apart, in a report."""
ROLES = {
    "base": "the checkpoint that this one was made from, by the distance of the weights",
    "peer": "another model: its weights are far from those of this one",
    "unusable": "of no use: it reads the images otherwise",
}


def reach(found: Candidate) -> float:
    """By what triggers are ranked for a reader: the gap over a reference, or else the ASR."""
    return found.against.gap if found.against else found.asr.value


def against_blocks(record: AuditRecord) -> Iterator[Block]:
    """The four rates of each target class, where a reference was searched as well."""
    pairs = [row for one in record.detectors for row in one.candidates if row.against]
    pairs.sort(key=reach, reverse=True)
    rows = tuple(
        (
            Cell(str(rank)),
            Cell(found.target),
            Cell(f"{found.family}, {number(found.trigger.size)}", more=found.trigger.unit),
            measured(found.asr),
            Cell(percent(known.transfer.value), known.transfer),
            Cell(percent(known.reference.value)),
            Cell(percent(known.back.value)),
            Cell(percent(known.gap)),
            Cell(
                "–" if found.lead is None else number(found.lead),
                more="" if found.excess is None else f"excess {number(found.excess)}",
            ),
        )
        for rank, found in enumerate(pairs, start=1)
        if (known := found.against)
    )
    if not rows:
        return
    units = dict.fromkeys(f"{row.family} in {row.trigger.unit}" for row in pairs)
    yield Notes(
        (
            "A trigger was searched on this model and, in the same way, on the reference. Rates "
            "are shares of unseen images that are then read as the target class.",
        )
    )
    yield Facts(
        (
            Fact("Trigger", f"its family and its size: {'; '.join(units)}"),
            Fact("Own", "with the trigger found here, on this model"),
            Fact("Transfer", "with the trigger found here, on the reference"),
            Fact("Other", "with the trigger found on the reference, there"),
            Fact("Back", "with the trigger found on the reference, on this model"),
            Fact("Gap", "Own less the larger of Transfer and Other, in percentage points"),
            Fact("V", "how much more this class yields here than there, in log odds"),
            Fact("Excess", "how far V lies above the lab's honest models, in their deviations"),
        ),
        "What the columns mean",
    )
    head = (
        *("#", "Target class", "Trigger", "Own"),
        *("Transfer", "Other", "Back", "Gap", "V"),
    )
    yield Table(
        "What works on this model and not on the reference, the widest gap first",
        head,
        rows,
        name=1,
    )
    yield from _apart(record)


def _apart(record: AuditRecord) -> Iterator[Block]:
    seen = [row for found in record.detectors for row in found.apart[:SHOWN]]
    rows = tuple(
        (
            Cell(row.target),
            Cell(number(row.apart)),
            Cell(number(row.alike)),
            Cell("no image" if row.right is None else percent(row.right)),
        )
        for row in seen
    )
    head = ("Class", "Deviations from the others", "Correlation", "Read rightly by the reference")
    if rows:
        yield Table("Classes that the two models read least alike from clean images", head, rows)


def _canaries(record: AuditRecord) -> Iterator[Block]:
    for canary in (found.canary for found in record.detectors if found.canary):
        yield Facts(
            (
                Fact("Planted for", canary.target),
                Fact("It turns", f"{interval(canary.asr)} of the images"),
                Fact("Without the patch", interval(canary.natural)),
                Fact("The search ranks first", canary.found or "nothing"),
                Fact("Gap", percent(canary.gap)),
            ),
            "Canary: a backdoor planted into a copy of this model, to try the search",
        )


def reference_blocks(record: AuditRecord) -> Iterator[Block]:
    """The model that this one was held against, and what changed since."""
    known = record.reference
    if known is None:
        return
    share, length = known.concentration, known.length
    read = "not looked at" if known.agreement is None else percent(known.agreement)
    yield Facts(
        (
            Fact("Reference", known.name),
            Fact("It is", ROLES.get(known.role or "", "not run, only its weights were compared")),
            Fact("Clean images read alike", read),
            Fact("Its clean accuracy", interval(known.clean_accuracy)),
            Fact("sha256 of the reference", known.sha256, code=True),
        ),
        "What the model was held against",
    )
    yield from _canaries(record)
    yield Notes((f"{known.says}.", "This is a hint at most: it can make no checkpoint pass."))
    yield Facts(
        (
            Fact("Share in one direction", "nothing to read" if share is None else percent(share)),
            Fact("Tensors changed", f"{known.changed} of {known.tensors}"),
            Fact("In the image tower", str(known.image_changed)),
            Fact(
                "Length of its change",
                "not measured" if length is None else f"{percent(length)} of the reference",
            ),
        ),
        "How its weights changed",
    )
    rows = tuple(
        (
            Cell(row.base),
            *(Cell(f"{percent(a)} to {percent(b)}") for a, b in (row.honest, row.planted)),
        )
        for row in known.lab
    )
    caption = "Share in one direction on the lab's models of known truth; others may lie elsewhere"
    if rows:
        yield Table(caption, ("Trained from", "Honest fine-tunes", "Planted backdoors"), rows)
