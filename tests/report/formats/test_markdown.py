import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
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
    assert not re.search(r"(?<!\\)(?:\\\\)*([<>|`*\[\]#@$~&]|:(?=\S))", escaped)
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


@pytest.mark.parametrize(
    "text",
    [
        *("a|b*c <d>", "_a_ __b__", "1. x", "1234) x", "- x", "+ x", "# x", "===", "> x", "~~~"),
        *("www.evil.example", "https://a.b/c", "a@b.c", "a\\*b*", "![a](b)", "&lt;"),
    ],
)
def test_escaped_text_reads_as_before(text: str) -> None:
    """By a reader of GitHub's Markdown: a paragraph of plain text, and nothing else."""
    assert not re.search(r"www\.|(?<!\\)://|\w@", escape(text)), "automatic links"
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    (_, inline, _) = page.parse(escape(text))
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == text
    plain = "max_score is 0.5 (p = 0.05), above the limit; 97.2 % of images: all!"
    assert escape(plain) == plain
