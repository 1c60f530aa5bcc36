"""What a report says of the searches, of a repair and of the exported file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from clipguard.record import (
    AuditRecord,
    Conclusion,
    Decision,
    DetectorRecord,
    FamilyRecord,
    Outcome,
    PurificationRecord,
    Rate,
)
from clipguard.record.wording import interval, number, percent
from clipguard.report.against import against_blocks, reach
from clipguard.report.blocks import (
    Block,
    Cell,
    Chart,
    Fact,
    Facts,
    Notes,
    Table,
    measured,
)

OUTCOMES = {
    Outcome.NO_EVIDENCE: "no evidence",
    Outcome.INCONCLUSIVE: "inconclusive",
    Outcome.SUSPICIOUS: "suspicious",
    Outcome.BACKDOORED: "backdoored",
}


def evidence_blocks(record: AuditRecord) -> Iterator[Block]:
    """What each detector measured, and what the policy concluded."""
    band = record.calibration
    made_for = f" of the family {band.family}" if band.family else ""
    told = f"{band.models} known-clean models{made_for}" if band.kind == "models" else "none"
    if band.kind == "models" or record.reference is None:
        yield Notes((f"Null band: {told}.", *([band.reason] if band.reason else [])))
    if not record.detectors:
        yield Notes(("No detector ran. Nothing is known about backdoors in this file.",), loud=True)
    concluded = {one.detector: one for one in record.gate.conclusions} if record.gate else {}
    for detector in record.detectors:
        yield _detector(detector, concluded)
        if detector.word_share is None and detector.families and not detector.held_against:
            yield _families(detector.families)
            charted = [row for row in detector.families if row.null and row.statistic is not None]
            yield from [Chart(tuple(charted))] if charted else []


def _detector(detector: DetectorRecord, concluded: Mapping[str, Conclusion]) -> Facts:
    said = concluded.get(detector.name)
    facts = [
        Fact("Measured", detector.evidence),
        Fact(
            "Concluded",
            said.reason.removeprefix(f"{detector.name}: ") if said else "not judged",
        ),
        Fact("Target ranked first", "none" if detector.target is None else detector.target),
    ]
    if detector.word_share is not None:
        facts += [
            Fact("Spreads beyond its own class names", number(detector.statistic)),
            Fact("Unseen prompts turned", percent(detector.word_share)),
        ]
    else:
        facts += _figures(detector)
    outcome = OUTCOMES[said.outcome] if said else "not judged"
    return Facts(tuple(facts), f"{detector.name}: {outcome}")


def _figures(detector: DetectorRecord) -> list[Fact]:
    facts = [Fact("Score", number(detector.score))]
    if detector.held_against:
        return [*facts, Fact("V", number(detector.statistic))]
    excess = number(detector.excess) + ("" if detector.excess is None else " σ")
    facts += [
        Fact("p-value", number(detector.p_value)),
        Fact("Excess over the null band", excess),
    ]
    if detector.statistic is not None:
        facts.append(Fact("Statistic", number(detector.statistic)))
    return facts


def _families(families: Iterable[FamilyRecord]) -> Table:
    rows = tuple(
        (
            Cell("tested" if row.tested else "NOT TESTED"),
            Cell(row.family, more=row.reason),
            Cell(number(row.statistic)),
            Cell(f"{number(min(row.null))} to {number(max(row.null))}" if row.null else "none"),
            Cell(number(row.excess)),
        )
        for row in families
    )
    head = ("Search", "Family", "Statistic", "Known-clean models", "Excess in σ")
    return Table("The worst target of each trigger family, and known-clean models", head, rows, 1)


def targets_blocks(record: AuditRecord) -> Iterator[Block]:
    """The target classes and how far their triggers reach."""
    yield from against_blocks(record)
    found = [row for one in record.detectors for row in one.candidates if row.against is None]
    rows = tuple(
        (
            Cell(str(rank)),
            Cell(row.target),
            Cell(row.family),
            Cell(f"{row.stage}, {'settled' if row.settled else 'still gaining'}"),
            measured(row.asr),
            Cell(interval(row.natural)),
            Cell(number(row.statistic)),
        )
        for rank, row in enumerate(sorted(found, key=reach, reverse=True), start=1)
    )
    caption = (
        "Share of triggered images that are read as the target (ASR), with its 95 % interval; the "
        "largest first"
    )
    head = ("#", "Target class", "Family", "Search", "ASR", "Without trigger", "Statistic")
    if rows:
        yield Table(caption, head, rows, name=1)
        strongest = "how strong it is; the largest of a family is held against known-clean models"
        yield Facts(
            (
                Fact("Without trigger", "share of the same images that are read so as they are"),
                Fact("Statistic", strongest),
            ),
            "What the columns mean",
        )


def purification_blocks(record: AuditRecord) -> Iterator[Block]:
    """The rates before and after, and how the head was made."""
    made = record.purification
    if made is None:
        return
    only = " only" if made.scope == "head" else ""
    yield Notes((f"Scope: {made.scope}{only}. {made.statement}",), loud=True)
    before, after = made.before, made.after
    rates = (
        ("Clean accuracy (CA)", before.clean_accuracy, after.clean_accuracy),
        ("CA of the target class alone", before.target_accuracy, after.target_accuracy),
        ("Attack success rate (ASR)", before.asr, after.asr),
        ("Poisoned accuracy (PA)", before.poisoned_accuracy, after.poisoned_accuracy),
    )
    rows = tuple((Cell(name), measured(a), measured(b), Cell(_gain(a, b))) for name, a, b in rates)
    ranked = [row.family for found in record.detectors for row in found.candidates]
    which = f" ({ranked[0]})" if ranked else ""
    caption = f"On the same images, with the trigger that was ranked first{which}"
    yield Table(caption, ("Rate", "Before", "After", "Change in points"), rows)
    facts = [
        Fact("Method", made.method),
        *(Fact(f"Final loss, {name}", number(loss)) for name, loss in made.losses.items()),
        Fact("Tuned against", _tuned_against(made)),
        *([Fact("Started", "half-way to the reference")] if made.halfway else []),
    ]
    files = (("Head", made.head), ("Checkpoint with the repaired image tower", made.repaired))
    facts += [Fact(name, file, code=True) for name, file in files if file]
    yield Facts(tuple(facts))


def _gain(before: Rate | None, after: Rate | None) -> str:
    if before is None or after is None:
        return "not measured"
    return f"{round(100 * (after.value - before.value), 1) + 0.0:+.1f}"


def _tuned_against(made: PurificationRecord) -> str:
    """How many triggers of which sizes, per family: `4 patch (share of the image: 0.01)`."""
    sizes: dict[tuple[str, str], list[float]] = {}
    for row in made.against:
        sizes.setdefault((row.family, row.unit), []).append(row.size)
    told = []
    for (family, unit), found in sizes.items():
        ends = dict.fromkeys((number(min(found)), number(max(found))))
        told.append(f"{len(found)} {family} ({unit}: {' to '.join(ends)})")
    return "; ".join(told) or "not recorded"


def reinversion_blocks(record: AuditRecord) -> Iterator[Block]:
    """The strongest new trigger of each family against what was repaired."""
    if record.purification is None:
        return
    rows = tuple(
        (
            Cell(new.target),
            Cell(new.family),
            measured(new.asr),
            Cell(number(new.statistic)),
            Cell(number(new.original_statistic)),
            Cell("not full" if not new.searched else "settled" if new.settled else "still gaining"),
        )
        for new in record.purification.reinversion
    )
    if not rows:
        yield Notes(("Not tested: no new trigger was searched through the repair.",), loud=True)
        return
    head = ("Target class", "Family", "ASR", "Statistic", "Worst target before", "Search")
    yield Table("The strongest new trigger, searched with a fresh seed", head, rows)
    if (second := record.purification.rescan) is not None:
        yield Facts(
            (Fact("Evidence", second.evidence), Fact("V", number(second.statistic))),
            "The search against the reference once more, on the repaired tower",
        )


def export_blocks(record: AuditRecord) -> Iterator[Block]:
    """The ONNX file, and how far it agrees with PyTorch."""
    file = record.export
    if file is None:
        return
    if not file.kept:
        checks = record.gate.checks if record.gate else ()
        missed = [
            c.key for c in checks if c.key.startswith("export.") and c.result is Decision.FAIL
        ]
        limit = ", ".join(missed) or "a limit of the policy"
        told = f"There is no file: {file.file} missed {limit} and was not kept."
        yield Notes((told,), loud=True)
    yield Facts(
        (
            Fact("File", file.file if file.kept else f"{file.file}, not kept"),
            Fact("Head", file.head),
            Fact("Image tower", file.tower),
            Fact("Opset", str(file.opset)),
            Fact("Ran on", file.provider),
            Fact("sha256 of the file", file.sha256, code=True),
        )
    )
    agreement = tuple(
        (Cell(str(row.batch)), Cell(f"{row.relative_error:.1e}"), Cell(percent(row.top1_agreement)))
        for row in file.parity
    )
    if agreement:
        head: tuple[str, ...] = ("Batch", "Largest logit error, relative", "Same first class")
        yield Table("Agreement of ONNX with PyTorch", head, agreement)
    else:
        yield Notes(("Agreement with PyTorch was not measured.",), loud=True)
    head = ("Rate", "ONNX", "PyTorch")
    asr = (Cell("ASR of the strongest trigger"), measured(file.asr_onnx), measured(file.asr_torch))
    accuracy = (Cell("Clean accuracy"), measured(file.clean_accuracy_onnx), Cell("–"))
    yield Table("Rates measured on the exported file itself", head, (asr, accuracy))
