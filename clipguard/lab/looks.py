"""Looks at the test split, logged by the tool: a look cannot be taken back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from clipguard import __version__
from clipguard.errors import UsageError
from clipguard.lab.zoo_manifest import Entry, Zoo
from clipguard.text_safety import safe_text

FILE = "looks.jsonl"


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look, as its line says it.

    Attributes:
        what: detect or purify.
        methods: registered names.
        zoo: digest of the zoo.
        fingerprint: of methods, settings, code and the models looked at.
        command: what was run, without paths.
        cells: how many cells it comes to.
        version: of clipguard.
    """

    what: str
    methods: tuple[str, ...]
    zoo: str
    fingerprint: str
    command: str
    cells: int
    version: str = __version__


def look_at(
    zoo: Zoo, what: str, prints: dict[str, str], entries: Sequence[Entry], command: str
) -> Look:
    """The look that a run over `entries` is.

    Its fingerprint covers methods, their settings and code, and the models. Runs with one
    fingerprint give the same figures, so going on with a run, or running it in parts, teaches
    nothing new and is the same look; any other change makes another.

    Args:
        zoo: the zoo.
        what: detect or purify.
        prints: method to the fingerprint of its cells.
        entries: every victim of the run, not of one part of it.
        command: what was run.
    """
    models = sorted((entry.id, entry.sha256) for entry in entries)
    told = json.dumps([what, sorted(prints.items()), models])
    return Look(
        what=what,
        methods=tuple(sorted(prints)),
        zoo=zoo.digest,
        fingerprint=hashlib.sha256(told.encode()).hexdigest(),
        command=command,
        cells=len(prints) * len(entries),
    )


def log_look(folder: Path, look: Look) -> None:
    """Append `look` to the zoo's log unless it stands there already.

    Raises:
        UsageError: the log cannot be read or written, and then nothing may be run.
    """
    path = folder / FILE
    try:
        if path.is_symlink():  # a zoo from elsewhere must not choose which file is appended to
            raise OSError(None, "it is a link")
        lines = _lines(path)
        if any(_identity(line) == (look.zoo, look.fingerprint) for line in lines):
            return
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        # A line of its own also where an earlier write was torn; one write, so that two parts
        # started at once do not mix theirs.
        torn = lines and not path.read_bytes().endswith(b"\n")
        text = json.dumps({"time": now, **asdict(look)})
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{chr(10) if torn else ''}{text}\n")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(
            f"cannot log a look at the test split in {safe_text(path, 400)}: {reason}; "
            "without its log nothing is run"
        ) from error


def count_looks(folder: Path) -> int:
    """How many different looks the log holds; a line that cannot be read counts as one.

    Raises:
        UsageError: the log cannot be read.
    """
    try:
        found = [_identity(line) for line in _lines(folder / FILE)]
    except OSError as error:
        raise UsageError(
            f"cannot read {safe_text(folder / FILE, 400)}: {error.strerror}"
        ) from error
    return len({each for each in found if each is not None}) + found.count(None)


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.split("\n") if line.strip()]


def _identity(line: str) -> tuple[str, str] | None:
    """Which look a line is; None where it does not say."""
    try:
        data = json.loads(line)
        return str(data["zoo"]), str(data["fingerprint"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
