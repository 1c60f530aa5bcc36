import re
from pathlib import Path

import pytest
from samples import HOSTILE, RECORDS, dropped, failing, inconclusive

from clipguard.record import AuditRecord
from clipguard.report.formats import RENDERERS
from clipguard.report.formats.markdown import escape


def render(record: AuditRecord) -> str:
    return RENDERERS.build("markdown").render(record, Path("nowhere"))


@pytest.mark.parametrize("kind", RECORDS)
def test_a_summary_has_at_most_sixty_lines(kind: str) -> None:
    assert len(render(RECORDS[kind]()).splitlines()) <= 60


def test_the_verdict_comes_first() -> None:
    assert render(failing()).startswith("## ❌ Fail: ")
    assert render(inconclusive()).startswith("## ⚠️ Cannot tell: ")


def test_every_mark_of_hostile_names_is_escaped() -> None:
    escaped = escape(" ".join(HOSTILE), 10_000)
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>|`*_\[\]{}!#:(]", escaped)
    assert "\n" not in escaped
    assert "\x1b" not in escaped


def test_no_hostile_text_opens_markup_or_breaks_a_table() -> None:
    text = render(RECORDS["hostile"]())
    assert not re.search(r"(?<!\\)[<`\[]", text)
    assert "https://" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert columns <= {4, 5}


def test_escaped_text_reads_as_before() -> None:
    assert re.sub(r"\\(.)", r"\1", escape("a|b*c <d>")) == "a|b*c <d>"


def test_the_scope_is_said() -> None:
    assert "**Scope:**" in render(failing())


def test_a_file_that_was_not_kept_is_said_to_be_missing_with_the_limit() -> None:
    (line,) = (row for row in render(dropped()).splitlines() if "not kept" in row)
    assert escape("export.max_relative_error") in line
    assert "not kept" not in render(failing())


def test_the_change_from_a_reference_is_one_line() -> None:
    (line,) = (row for row in render(failing()).splitlines() if "the reference" in row)
    assert "132 of 225" in line
    assert "the reference" not in render(inconclusive())
