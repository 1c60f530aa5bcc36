"""Annotations of a GitHub workflow: commands on standard output, one for each line.

Source:
    "Workflow commands for GitHub Actions" in GitHub's manual. It shows ten of a level for a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from clipguard.record import AuditRecord
from clipguard.record.wording import name_of, verdict
from clipguard.report.lines import place_of, said
from clipguard.report.rules import RULES
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer

COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}
MOST = 9
"""Lines of a level beside the decision; GitHub shows no more, and which is up to it."""


@dataclass(frozen=True, kw_only=True)
class Github:
    """The decision as a notice, and a line for all that keeps the checkpoint from passing."""

    SUFFIX: ClassVar[str] = ".github.txt"
    MARK: ClassVar[str] = r"::notice file=[^\n]*title=clipguard::"

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        word, why, code, _ = verdict(record)
        headline = f"{word}: {name_of(record)} (exit code {code}): {why}"
        commands = [_command("notice", place_of(record), "clipguard", headline)]
        for level, command in COMMANDS.items():
            lines = [line for line in said(record) if line.level == level]
            commands += [
                _command(command, place_of(record), f"{one.rule} {RULES[one.rule][0]}", one.text)
                for one in lines[:MOST]
            ]
        return "".join(commands)

    def join(self, documents: Sequence[str]) -> str:
        """See `Joinable.join`."""
        return "".join(documents)


METHOD: type[Renderer] = Github


def _command(command: str, place: str, title: str, text: str) -> str:
    told = _data(safe_text(text, 1000))
    return f"::{command} file={_property(place)},line=1,title={_property(title)}::{told}\n"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
