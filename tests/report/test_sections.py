"""What a report says, and that every format that draws it says all of it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page
from samples import RECORDS, candidate, clean_detector, dropped, failing, passing, unjudged

from clipguard.record import AuditRecord, CoverageRecord, DetectorRecord, PowerRecord
from clipguard.report import sections as content
from clipguard.report.blocks import Chart, Fact, Facts, Notes, Pictures, Section, Table, shortened
from clipguard.report.formats import RENDERERS
from clipguard.report.sections import sections
from clipguard.text_safety import safe_text

WHOLE: dict[str, dict[str, Any]] = {
    "html": {"rows": 10**6, "pictures": 10**6},
    "markdown": {"rows": 10**6, "leaves_out": ()},
    "text": {"rows": 10**6, "leaves_out": ()},
}


def text_record() -> AuditRecord:
    """A record whose detector looked for words, with everything that is seldom there."""
    detector = DetectorRecord(
        name="text_tokens", evidence="'cf' turns", statistic=3.2, target="teapot", word_share=0.61
    )
    base = passing()
    power = PowerRecord(attack="badnets", side="calibration", failed=candidate("", "", 0.5).asr)
    return base.model_copy(
        update={
            "detectors": (detector,),
            "coverage": CoverageRecord(power=(power,)),
            "probe": base.probe.model_copy(update={"warnings": ("two names are one",)}),
            "export": base.export.model_copy(update={"kept": False, "parity": ()}),
        }
    )


SHOWN = {**RECORDS, "dropped": dropped, "words": text_record}


def read(name: str, record: AuditRecord, settings: dict[str, Any] | None = None) -> str:
    """What a reader of a format sees, without blanks and the marks of wrapped lines."""
    text = RENDERERS.build(name, settings).render(record, Path("nowhere"))
    if name == "html":
        text = Page(text).text
    elif name == "markdown":
        text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)
    return squeezed(text)


def squeezed(text: str) -> str:
    return re.sub(r"[\s|]", "", text)


def texts(part: Section) -> Iterator[str]:
    """Every figure, name and sentence of a section."""
    yield part.heading
    for block in part.blocks:
        if isinstance(block, Facts):
            yield from (text for fact in block.rows for text in (fact.label, fact.text))
        elif isinstance(block, Table):
            yield from (cell.text for row in block.rows for cell in row)
        elif isinstance(block, Pictures):
            facts = (*block.facts.rows, *(fact for shot in block.rows for fact in shot.facts.rows))
            yield from (fact.text for fact in facts)
        elif not isinstance(block, Chart):
            yield from block.rows


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kind", SHOWN)
def test_every_format_shows_everything_that_the_sections_say(kind: str, name: str):
    record = SHOWN[kind]()
    shown = read(name, record, WHOLE[name])
    _, *rest = sections(record)  # HTML draws the heading of the first as its banner
    said = [
        text for part in (replace(sections(record)[0], heading=""), *rest) for text in texts(part)
    ]
    assert len(said) > 50
    assert [text for text in said if squeezed(safe_text(text, 1200)) not in shown] == []


@pytest.mark.parametrize("name", WHOLE)
def test_a_new_figure_is_one_place(name: str, monkeypatch: pytest.MonkeyPatch):
    added = Facts((Fact("Share of moons", "41.5 %"),))
    monkeypatch.setattr(content, "targets_blocks", lambda record: iter((added,)))
    shown = read(name, passing(), WHOLE[name])
    assert "Shareofmoons" in shown
    assert "41.5%" in shown


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kind", SHOWN)
def test_what_was_not_measured_is_never_shown_as_a_value_nor_a_model_called_safe(
    kind: str, name: str
):
    text = RENDERERS.build(name, WHOLE[name]).render(SHOWN[kind](), Path("nowhere"))
    shown = Page(text).text if name == "html" else text
    assert not re.search(r"\bNone\b|\bnan\b|\bTrue\b|\bFalse\b|\bsafe\b", shown)


def loud(record: AuditRecord, key: str) -> int:
    """How many sentences of a section stand out."""
    blocks = next(part.blocks for part in sections(record) if part.key == key)
    return sum(len(b.rows) for b in blocks if isinstance(b, Notes) and b.loud)


def test_a_file_that_was_not_kept_is_said_to_be_missing_with_the_limit():
    assert [loud(each, "export") for each in (failing(), dropped())] == [0, 1]
    assert "missedexport.max_relative_error" in read("text", dropped(), WHOLE["text"])


def test_a_head_that_was_not_searched_is_said_loudly():
    record = failing()
    unsearched = record.purification.model_copy(update={"reinversion": ()})
    changed = record.model_copy(update={"purification": unsearched})
    assert [loud(each, "reinversion") for each in (record, changed)] == [0, 1]


def test_what_the_repair_still_reads_as_the_target_stands_out():
    record = failing()
    [detector, *others] = record.detectors
    row = next(one for one in detector.candidates if one.trigger.examples)
    shot = row.trigger.examples[0].model_copy(update={"truth": "bus", "before": "bus"})
    for read, truth, stands_out in (
        (row.target, "bus", True),
        ("tram", "bus", False),
        (row.target, None, True),
        (row.target, row.target, False),
    ):
        told = shot.model_copy(update={"purified": read, "truth": truth})
        trigger = row.trigger.model_copy(update={"examples": (told,)})
        changed = (row.model_copy(update={"trigger": trigger}),)
        found = (detector.model_copy(update={"candidates": changed}), *others)
        said = sections(record.model_copy(update={"detectors": found}))
        blocks = next(part.blocks for part in said if part.key == "triggers")
        [shown] = [made for block in blocks if isinstance(block, Pictures) for made in block.rows]
        fact = shown.facts.rows[-1]
        assert fact.loud is stands_out
        assert fact.text.startswith(read)
        assert ("bus" in fact.text) is (truth == "bus")


def test_a_search_that_measured_on_fewer_images_is_told():
    record = passing()
    fewer = record.detectors[0].model_copy(update={"measured": record.probe.measure - 7})
    shown = str(record.probe.measure - 7)
    for each, told in ((record, False), (record.model_copy(update={"detectors": (fewer,)}), True)):
        blocks = next(part.blocks for part in sections(each) if part.key == "checkpoint")
        facts = [fact.text for block in blocks if isinstance(block, Facts) for fact in block.rows]
        assert any(shown in text for text in facts) is told


def test_the_scope_of_a_purified_head_is_said_at_the_top_and_at_the_table():
    assert [loud(failing(), key) for key in ("verdict", "purification")] == [1, 1]


def test_a_record_without_a_gate_is_not_judged():
    assert "notjudged" in read("text", unjudged(), WHOLE["text"])
    assert "notjudged" not in read("text", passing(), WHOLE["text"])
    assert "checks" not in {part.key for part in sections(unjudged())}


@pytest.mark.parametrize("name", WHOLE)
def test_long_lists_are_cut_and_the_cut_is_told(name: str):
    many = tuple(candidate(f"class {n}.", "patch", 0.1) for n in range(50))
    record = unjudged(detectors=(clean_detector().model_copy(update={"candidates": many}),))
    shown = read(name, record, {"rows": 3})
    assert "class2." in shown
    assert "class3." not in shown
    assert "47morenotshown" in shown


def test_pictures_have_a_limit_of_their_own():
    parts = shortened(sections(failing()), rows=9, pictures=1, leaves_out=("glossary",))
    blocks = next(part.blocks for part in parts if part.key == "triggers")
    found = [block for block in blocks if isinstance(block, Pictures)]
    assert [len(block.rows) for block in found] == [1]
    assert {part.key for part in sections(failing())} - {part.key for part in parts} == {"glossary"}
