import re
from pathlib import Path

import pytest
from samples import HOSTILE, RECORDS, failing, inconclusive, passing

from clipguard.record import AuditRecord
from clipguard.report.formats import RENDERERS
from clipguard.report.formats.markdown import escape


def render(record: AuditRecord) -> str:
    return RENDERERS.build("markdown", {"leaves_out": ()}).render(record, Path("nowhere"))


def test_the_verdict_comes_first() -> None:
    marks = [render(make()).split()[1] for make in (passing, inconclusive, failing)]
    assert marks == ["✅", "⚠️", "❌"]


@pytest.mark.parametrize("name", HOSTILE)
def test_every_mark_of_a_hostile_name_is_escaped(name: str) -> None:
    escaped = escape(name)
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>|`*_\[\]{}!#:(]", escaped)
    assert "\n" not in escaped
    assert "\x1b" not in escaped


@pytest.mark.parametrize("kind", RECORDS)
def test_no_text_opens_markup_or_breaks_a_table(kind: str) -> None:
    text = render(RECORDS[kind]())
    assert not re.search(r"(?<!\\)[<`\[]", text)
    assert "https://" not in text
    for rows in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}
        assert len(columns) == 1, rows


def test_escaped_text_reads_as_before() -> None:
    assert re.sub(r"\\(.)", r"\1", escape("a|b*c <d>")) == "a|b*c <d>"
