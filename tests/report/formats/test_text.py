import re
from pathlib import Path

import pytest
from samples import RECORDS, dropped, failing, inconclusive, passing, refused

from clipguard.record import AuditRecord
from clipguard.report.formats import RENDERERS


def render(record: AuditRecord) -> str:
    return RENDERERS.build("text").render(record, Path("nowhere"))


def test_the_first_line_is_the_verdict() -> None:
    heads = [render(make()).splitlines()[0] for make in (passing, failing, inconclusive, refused)]
    assert heads == [
        "Pass: model.pt (exit code 0, policy default)",
        "Fail: model.pt (exit code 1, policy default)",
        "Cannot tell: model.pt (exit code 3, policy default)",
        "Fail: unidentified file (exit code 4, policy default)",
    ]


def test_a_record_without_a_gate_cannot_tell() -> None:
    assert render(RECORDS["unjudged"]()).startswith("Cannot tell: model.pt (exit code 3)\n")


@pytest.mark.parametrize("kind", RECORDS)
def test_no_text_steers_a_terminal_or_a_runner(kind: str) -> None:
    text = render(RECORDS[kind]())
    assert all(char == "\n" or char.isprintable() for char in text)
    assert "##[" not in text
    for line in text.splitlines():
        assert not line.lstrip().startswith("::"), line


@pytest.mark.parametrize("kind", RECORDS)
def test_words_never_say_safe_or_none(kind: str) -> None:
    assert not re.search(r"\bsafe\b|\bNone\b|\bnan\b", render(RECORDS[kind]()))


def test_rates_have_intervals_and_the_scope_is_said() -> None:
    text = render(failing())
    assert "97.2 % (95.1–99.1)" in text
    assert "the image tower stays poisoned" in text


def test_what_was_not_tested_is_listed() -> None:
    text = render(inconclusive())
    assert "NOT TESTED  additive" in text
    assert re.search(r"NOT +frequency: not part", text)


def test_a_file_that_was_not_kept_is_said_to_be_missing_with_the_limit() -> None:
    assert re.search(r"NO FILE +model.onnx .*export.max_relative_error", render(dropped()))
    assert "NO FILE" not in render(passing())


def test_lines_that_do_not_count_say_so() -> None:
    assert "(Pass, not counted)  purification.max_asr" in render(failing())


def test_the_change_from_a_reference_stands_beside_models_of_known_truth() -> None:
    text = " ".join(render(failing()).replace(" | ", " ").split())
    for shown in ("base.pt", "132 of 225", "11.5 % to 28.9 %", "26.0 % to 32.8 %"):
        assert shown in text
    assert "reference" not in render(passing())
