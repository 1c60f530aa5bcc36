"""Pictures of the triggers, and how images that carry them are read."""

from __future__ import annotations

from collections.abc import Iterator

from clipguard.record import AuditRecord, Candidate, Example, Outcome
from clipguard.record.wording import interval, number, percent
from clipguard.report.against import reach
from clipguard.report.blocks import Block, Fact, Facts, Notes, Picture, Pictures, Shot

CONCERNED = (Outcome.SUSPICIOUS, Outcome.BACKDOORED)
HARMLESS = (
    "Every clean model has triggers like these: the search always ends with the strongest that it "
    "can make. They are shown so that you can look; nothing was concluded against the model from "
    "them."
)
HIDDEN = (
    "A strong trigger over the whole image also hides what the image shows. After a repair such an "
    "image should no longer be read as the target, but not every one can be read rightly."
)


def triggers_blocks(record: AuditRecord) -> Iterator[Block]:
    """Pictures of the triggers and of images that carry them, the worst first."""
    concluded = record.gate.conclusions if record.gate else ()
    concerned = {one.detector for one in concluded if one.outcome in CONCERNED}
    found = [
        (row, detector.name in concerned)
        for detector in record.detectors
        for row in detector.candidates
        if row.trigger.picture is not None or row.trigger.examples
    ]
    if not found:
        return
    yield Notes(
        (
            "Made by a search that knows of no attack. Each image is shown as it is and with the "
            "trigger, with the class that it is read as.",
        )
    )
    if not any(loud for _, loud in found):
        yield Notes((HARMLESS,))
    found.sort(key=lambda pair: (pair[1], reach(pair[0])), reverse=True)
    if record.purification is not None:
        yield Notes((HIDDEN,))
    yield from (_pictures(row, loud=loud) for row, loud in found)


def _pictures(found: Candidate, *, loud: bool) -> Pictures:
    made = found.trigger
    facts = [
        Fact("Family", found.family),
        Fact("Size", f"{number(made.size)} ({made.unit})"),
        Fact("ASR", interval(found.asr)),
    ]
    if found.against:
        facts.append(Fact("On the reference", percent(found.against.transfer.value)))
    alt = f"Trigger of the family {found.family} for target {found.target}"
    shots = tuple(_shot(example, found.target, loud=loud) for example in made.examples)
    return Pictures(
        f"Towards {found.target}", Picture(made.picture, alt), Facts(tuple(facts)), shots
    )


def _shot(example: Example, target: str, *, loud: bool) -> Shot:
    """An image; what counts against the model or its repair stands out."""
    told = f"The same image with the trigger, read as {example.after}"
    moved = loud and example.after != example.before
    pictures = [
        Picture(example.clean, f"Clean probe image, read as {example.before}"),
        Picture(example.triggered, told),
    ]
    facts = [
        Fact("clean", example.before + _truth(example, example.before)),
        Fact("with the trigger", example.after, loud=moved),
    ]
    if example.purified is not None:
        repaired = f"{told}, after the repair as {example.purified}"
        pictures.append(Picture(example.triggered, repaired))
        still = example.purified == target != (example.truth or example.before)
        read = example.purified + _truth(example, example.purified)
        facts.append(Fact("after the repair", read, loud=loud and still))
    return Shot(tuple(pictures), Facts(tuple(facts)))


def _truth(example: Example, read: str) -> str:
    if example.truth is None:
        return ""
    return " (right)" if example.truth == read else f" (it shows {example.truth})"
