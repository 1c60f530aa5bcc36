import re
from pathlib import Path

import pytest
from samples import RECORDS, failing, inconclusive, passing, refused

from clipguard.record import AuditRecord
from clipguard.report.formats import RENDERERS


def render(record: AuditRecord) -> str:
    return RENDERERS.build("text", {"leaves_out": ()}).render(record, Path("nowhere"))


def test_the_first_line_is_the_verdict() -> None:
    heads = [render(make()).splitlines()[0] for make in (passing, failing, inconclusive, refused)]
    assert heads == [
        "Pass: model.pt (exit code 0, policy default)",
        "Fail: model.pt (exit code 1, policy default)",
        "Cannot tell: model.pt (exit code 3, policy default)",
        "Fail: model.pt (exit code 4, policy default)",
    ]
    assert render(RECORDS["unjudged"]()).startswith("Cannot tell: model.pt (exit code 3)\n")
    assert re.match(r"Fail: .{60,100} \(exit code", render(RECORDS["hostile"]()))


@pytest.mark.parametrize("kind", RECORDS)
def test_no_text_steers_a_terminal_or_a_runner(kind: str) -> None:
    text = render(RECORDS[kind]())
    assert all(char == "\n" or char.isprintable() for char in text)
    assert not re.search(r"##\w*\[", text)
    for line in text.splitlines():
        assert not line.lstrip().startswith("::"), line
