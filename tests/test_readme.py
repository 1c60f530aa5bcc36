"""What the documentation shows is true: command lines parse, links resolve, examples agree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from samples import failing
from typer.core import TyperGroup

import clipguard
from clipguard.cli.app import build_app
from clipguard.cli.tree import command_of

ROOT = Path(__file__).parents[1]
REFUSAL: Any = typer.BadParameter.__mro__[2]  # of every refused command line
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")})
BLOCK = re.compile(r"^```(?:console|bash|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPERATORS = set("();<>|&")
ASSIGNMENT = re.compile(r"\w+=")


def command_lines(markdown: str) -> list[list[str]]:
    """The words after `clipguard` of every call in the shell blocks of `markdown`."""
    found = []
    for block in BLOCK.findall(markdown):
        lines = block.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        for line in prompted or lines:  # beside prompts, the other lines are output
            found += [call for part in _parts(line) if (call := _call(part)) is not None]
    return found


def _parts(line: str) -> list[list[str]]:
    """The words of a line, cut at shell operators."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "#", True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= OPERATORS:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _call(words: list[str]) -> list[str] | None:
    """What `words` give to clipguard, if that is the program they call."""
    program = list(words)
    while program and (ASSIGNMENT.match(program[0]) or program[0] == "time"):
        program.pop(0)
    if program[1:2] == ["-m"]:
        program = program[2:]
    return program[1:] if program and Path(program[0]).name == "clipguard" else None


def parse(words: list[str]) -> str:
    """The path of the command that `words` call; click's own error if they do not parse."""
    command, names, rest = command_of(typer.main.get_command(build_app()), words)
    path = " ".join(["clipguard", *names])
    unknown = isinstance(command, TyperGroup) and rest and not rest[0].startswith("-")
    assert not unknown, f"no command {path} {rest[0]}"
    command.make_context(path, rest)
    return path


SAMPLE = """
```console
$ clipguard scan model.pt \\
    --profile thorough  # as a shell would
clipguard's output
```
```bash
# clipguard, it's here
make demo && .venv/bin/clipguard doctor --json > out.json
pip install clipguard
X=1 python -m clipguard lab plant badnets --set place=random -o v | tee log
```
```python
clipguard = 1
```
"""


def test_calls_are_found_as_a_shell_would_find_them_and_a_wrong_one_is_noticed():
    assert {parse(words): words[-1] for words in command_lines(SAMPLE)} == {
        "clipguard scan": "thorough",
        "clipguard doctor": "--json",
        "clipguard lab plant": "v",
    }
    for words in (["scan", "model.pt", "--no-such-option"], ["lab", "sow"], ["scna", "model.pt"]):
        with pytest.raises((AssertionError, REFUSAL)):
            parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_on_the_page_parses_and_every_relative_link_resolves(page: Path):
    text = page.read_text(encoding="utf-8")
    for words in command_lines(text):
        try:
            parse(words)
        except REFUSAL as error:
            pytest.fail(f"clipguard {shlex.join(words)}: {error}")
        except typer.Exit:
            continue
    links = [link for link in LINK.findall(text) if not re.match(r"#|mailto:|\w+://", link)]
    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


def test_the_readme_shows_the_main_commands():
    shown = {words[0] for words in command_lines(README) if words}
    assert {"scan", "predict", "lab", "gate", "demo"} <= shown


def test_the_example_without_torch_is_the_one_that_a_test_runs():
    _, shown = PYTHON.findall(README)
    (tested,) = PYTHON.findall((ROOT / "docs" / "onnx.md").read_text(encoding="utf-8"))
    assert shown == tested


def test_the_python_example_prints_the_decision_and_each_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shown, _ = PYTHON.findall(README)
    monkeypatch.setattr(clipguard, "scan", lambda *paths, policy: failing())
    exec(compile(shown, "README.md", "exec"), {})
    decided, *reasons = capsys.readouterr().out.splitlines()
    assert decided == "fail 1"
    assert reasons == [*clipguard.judge(failing(), "strict").reasons]


@pytest.mark.parametrize("field", re.findall(r"`(record\.[a-z_.]+)` \|", README))
def test_every_field_of_the_record_that_the_readme_names_is_there(field: str):
    part: object = failing()
    for name in field.split(".")[1:]:
        part = getattr(part, name)
    assert part
