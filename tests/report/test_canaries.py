"""Nothing that a record holds does anything in any format but show itself."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from canaries import PAYLOADS, document, free_texts, poisoned, put
from markdown_it import MarkdownIt
from page_reader import Page

import clipguard
from clipguard.errors import UsageError
from clipguard.record import AuditRecord
from clipguard.record.schema import loads
from clipguard.report.formats import RENDERERS

KINDS = ("alone", "reference")
COMMAND = re.compile(r"(?m)^::(?:error|warning|notice) file=[^:,\s]+,line=1,title=[^:,]+::")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def render(name: str, record: AuditRecord) -> str:
    keep_all = {"leaves_out": ()} if name in ("text", "markdown") else {}
    return RENDERERS.build(name, keep_all).render(record, Path("nowhere"))


@cache
def harmless(name: str, kind: str, *, long: bool = False) -> str:
    return render(name, poisoned("plain" * (20 if long else 1), kind))


def test_the_canaries_reach_every_field_of_a_record():
    fields = {
        path[-1] if isinstance(path[-1], str) else path[-2]
        for kind in KINDS
        for path in free_texts(kind)
    }
    wanted = {
        "name",
        "target",
        "command",
        "reasons",
        "reason",
        "key",
        "policy",
        "evidence",
        "family",
    }
    assert (
        wanted | {"what", "why", "tested", "architecture", "container", "clean", "says"} <= fields
    )
    assert len(PAYLOADS) >= 46


def require_steers_nothing(text: str) -> None:
    odd = {char for char in text if unicodedata.category(char)[0] == "C"} - {"\n"}
    assert odd == set()
    assert not set(text) & set("\u2028\u2029\u3164\u115f")
    assert not re.search(r"(?m)^\s*::|##\w*\[", text)


def require_plain_html(text: str, kind: str) -> None:
    page, *others = map(Page, (text, harmless("html", kind), harmless("html", kind, long=True)))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in others[0].tags]
    known = {(tag, name) for other in others for tag, names in other.tags for name in names}
    assert {(tag, name) for tag, names in page.tags for name in names} <= known
    assert page.open == []


def shape(text: str) -> list[tuple[str, int]]:
    """What a Markdown page is made of, texts and breaks of lines left out."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    parts = [child for token in tokens for child in (token, *(token.children or ()))]
    return [(p.type, p.level) for p in parts if p.type not in ("text", "text_special", "softbreak")]


def skeleton(name: str, text: str) -> list[str]:
    """What is no text from outside: tags of XML and their attributes, commands of a runner."""
    if name == "github":
        return re.findall(r"(?m)^::\w+ |,line=1,title=|::", text)
    root = ElementTree.fromstring(text)
    return [f"{part.tag} {sorted(part.keys())}" for part in root.iter()]


def require_plain_sarif(text: str) -> None:
    """No embedded links and no placeholders in messages."""
    [run] = json.loads(text)["runs"]
    told = [*run["results"], *run["invocations"][0]["toolExecutionNotifications"]]
    for message in (one["message"]["text"] for one in told):
        assert not re.search(r"(?<!\\)(?:\\\\)*\[", message)
        assert not re.search(r"(?<!\{)(?:\{\{)*\{(?!\{)", message)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_no_canary_gets_through(payload: str, kind: str):
    record = poisoned(payload, kind)
    made = {name: render(name, record) for name in RENDERERS.names()}
    for name, text in made.items():
        require_steers_nothing(COMMAND.sub("", text) if name == "github" else text)
        assert len(text) < 300_000 or name == "json"  # which holds all of it
    require_plain_html(made["html"], kind)
    assert shape(made["markdown"]) == shape(harmless("markdown", kind))
    assert "https://" not in made["markdown"]  # some renderers make links of bare addresses
    require_plain_sarif(made["sarif"])
    for name in ("junit", "github"):
        assert skeleton(name, made[name]) == skeleton(name, harmless(name, kind))


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 10**14])
@pytest.mark.parametrize("kind", KINDS)
def test_no_number_breaks_a_report(kind: str, value: float):
    """Every number of a record that takes it, at once: a report, and a decision."""
    changed = document(kind)
    for path, old in numbers(document(kind)):
        put(changed, path, value)
        try:
            record = loads(json.dumps(changed))
        except UsageError:
            put(changed, path, old)
    for name in RENDERERS.names():
        render(name, record)
    clipguard.judge(record)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_single_number_breaks_a_report(kind: str):
    read = 0
    for path, old in numbers(document(kind)):
        for value in (1e308, -1e308, 5e-324) if isinstance(old, float) else (0, 10**14):
            changed = document(kind)
            put(changed, path, value)
            with contextlib.suppress(UsageError):
                record = loads(json.dumps(changed))
                read += 1
                render("html", record)
                clipguard.judge(record)
    assert read > 50


def numbers(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, float]]:
    """Places of numbers and the numbers, of lists those in the first entry."""
    if isinstance(part, dict | list):
        items = part.items() if isinstance(part, dict) else [*enumerate(part)][:1]
        for key, value in items:
            yield from numbers(value, (*path, key))
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield path, part


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_no_canary_runs_in_a_browser(tmp_path: Path):
    tags: dict[str, list[str]] = {}
    for i, payload in enumerate(("plain", "plain", *PAYLOADS)):
        kind = KINDS[i % 2]
        (page := tmp_path / f"{i}.html").write_text(
            render("html", poisoned(payload, kind)), "utf-8"
        )
        body = seen(page, tmp_path)
        assert "<title>pwned" not in body
        assert elements(body) == tags.setdefault(kind, elements(body)), payload


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_browser_would_run_a_canary(tmp_path: Path):
    (tmp_path / "a.html").write_text(f"<title>x</title>{PAYLOADS[0]}{PAYLOADS[6]}")
    body = seen(tmp_path / "a.html", tmp_path)
    assert "<title>pwned</title>" in body
    assert '<b id="pwned">' in body


def elements(body: str) -> list[str]:
    """The elements of a page that a browser wrote, which closes what needs no end."""
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append(tag)  # type: ignore[method-assign]
    parser.feed(body)
    return found


def seen(page: Path, folder: Path) -> str:
    """The page as the browser has it after it ran."""
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout
