"""Text that would do something if it were shown as it is, and records that are full of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from samples import failing, held_against, judged

from clipguard.record import AuditRecord
from clipguard.record.schema import dumps, loads

PAYLOADS = (
    # HTML: elements, attributes, ends of what it may stand in
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "<svg onload=document.title='pwned'>",
    "<svg><script>document.title='pwned'</script></svg>",
    "</title><script>document.title='pwned'</script>",
    "</style><script>document.title='pwned'</script>",
    "</h1></main></body><b id=pwned>x</b>",
    '"><b id=pwned>x</b>',
    '"autofocus onfocus="document.title=\'pwned\'" x="',
    "' onmouseover='x' style='animation:x",
    "--><b id=pwned>x</b><!--",
    "]]><b id=pwned>x</b>",
    "<iframe srcdoc=\"<script>top.document.title='pwned'</script>\">",
    '<meta http-equiv=refresh content="0;url=https://evil.example">',
    '<base href="https://evil.example/">',
    "<a href=javascript:alert(1)>x</a>",
    "<math><mtext><b id=pwned>x</b></mtext></math>",
    "<b id=pwned",
    "&lt;b id=pwned&gt;x&lt;/b&gt;&#60;script&#62;",
    "{{ 7*7 }}{% set x = 1 %}{{ cycler.__init__.__globals__ }}",
    # a terminal
    "\x1b[2J\x1b[31mred",
    "\x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "\x9b2J\x90q\x9c",
    "fail\rpass",
    "fail\b\b\b\bpass\x7f",
    "\x00\x07\x0e",
    # a reader's eye
    "\u202eterces\u202c\u2066x\u2069",
    "a\u200bb\u200dc\ufeffd\u2060e",
    "a\u2028b\u2029c\x85d",
    "\u3164\u115f\U000e0041\U000e0100",
    "\ue000\U000f0000\ufffe",
    # CI runners
    "::error file=a,line=1::pwned",
    "\n::set-output name=a::pwned",
    "   ::stop-commands::pwned",
    "\r\n\t::add-mask::pwned",
    "##[error]pwned",
    "##vso[task.setvariable variable=a]pwned",
    "##teamcity[message text='pwned']",
    "\x1b[0Ksection_start:1:pwned\r",
    # Markdown
    "[x](javascript:alert(1))",
    "![x](https://evil.example/a.png)",
    "<https://evil.example> https://evil.example",
    "[x][1]\n\n[1]: https://evil.example",
    "a | b |\n| --- | --- |\n| c | d |",
    "```\n::error::pwned\n```",
    "`code` ``more``",
    "     code that is indented",
    "\n\n    code that is indented",
    "# heading\n## more",
    "- [x] list\n> quote\n---\n===",
    "**bold** __bold__ ~~gone~~ $x$ @someone #1",
    "\\[x\\](https://evil.example)",
    # tables, shells and SARIF
    "=cmd|'/c calc'!A0",
    "+1+1\t-1\t@SUM(A1)",
    "'; touch pwned; '",
    "$(touch pwned) `touch pwned` && touch pwned",
    "[CG201](https://evil.example) {0} {{1}}",
    "[bold red]pwned[/] [link=https://evil.example]x[/link]",
    "../../../etc/passwd\x00.png",
    "x" * 10_000,
)


def texts(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where texts stand in a JSON document, keys of mappings left out."""
    items = part.items() if isinstance(part, dict) else enumerate(part)
    for key, value in items:
        if isinstance(value, str):
            yield (*path, key)
        elif isinstance(value, dict | list):
            yield from texts(value, (*path, key))


def put(document: Any, path: tuple[str | int, ...], value: object) -> None:
    for step in path[:-1]:
        document = document[step]
    document[path[-1]] = value


@cache
def _written(kind: str) -> str:
    return dumps(failing() if kind == "alone" else judged(held_against()))


def document(kind: str) -> dict[str, Any]:
    """A judged record as JSON: `alone` with a null band and a repair, or with a reference."""
    made: dict[str, Any] = json.loads(_written(kind))
    return made


@cache
def free_texts(kind: str) -> list[tuple[str | int, ...]]:
    """Every place of a record that takes any text."""
    found = []
    for path in texts(document(kind)):
        changed = document(kind)
        put(changed, path, "any text")
        try:
            loads(json.dumps(changed))
        except Exception:  # noqa: BLE001 - a word of a fixed list, a digest, a date
            continue
        found.append(path)
    return found


def poisoned(payload: str, kind: str) -> AuditRecord:
    """A record of a stranger with `payload` in every text, and as key of every mapping."""
    changed = document(kind)
    for path in free_texts(kind):
        put(changed, path, payload)
    for name in ("environment", "settings"):
        changed[name] = {payload: payload}
    changed["times"]["seconds"] = {payload: 1.0}
    changed["checkpoint"]["notes"] = changed["probe"]["warnings"] = [payload]
    changed["errors"] = [{"stage": payload, "message": payload, "exit_code": 5}]
    return loads(json.dumps(changed))
