"""Looks at the test split, logged by the tool: a look cannot be taken back."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from clipguard import __version__
from clipguard.errors import UsageError
from clipguard.lab.zoo.manifest import Entry, Zoo
from clipguard.record import Sha256
from clipguard.text_safety import safe_text

FILE = "looks.jsonl"
SIZE_LIMIT = 8_000_000
_DIGEST = TypeAdapter(Sha256)


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look, as its line says it.

    Attributes:
        what: detect or purify.
        methods: registered names.
        zoo: digest of the zoo.
        fingerprint: of methods, settings and the models looked at, as `look_at` makes it.
        command: what was run, without paths.
        cells: how many cells it comes to.
        version: of clipguard.
    """

    what: str
    methods: tuple[str, ...]
    zoo: Sha256
    fingerprint: Sha256
    command: str
    cells: int
    version: str = __version__


def look_at(
    zoo: Zoo,
    what: str,
    prints: Mapping[str, str],
    entries: Sequence[Entry],
    command: str,
    *,
    also: str,
) -> Look:
    """The look that a run over `entries` is.

    Its fingerprint covers methods and their settings, the models and what the manifest says of
    them, and the declared id of the figures. Runs with one fingerprint give the same figures, so
    going on with a run, or running it in parts, teaches nothing new and is the same look; any
    other change makes another.

    Args:
        zoo: the zoo.
        what: detect or purify.
        prints: method to the fingerprint of its cells.
        entries: every victim of the run, not of one part of it.
        command: what was run.
        also: what else the figures depend on: the id of how they are made, for one.

    Raises:
        UsageError: the zoo's digest is none, so that no later run could be told from this one.
    """
    if not _is_digest(zoo.digest):
        raise UsageError(
            f"expected a digest of 64 hex digits in zoo.json, got {safe_text(zoo.digest)!r}; "
            "build the zoo again"
        )
    models = sorted((entry.to_json() for entry in entries), key=lambda told: str(told["id"]))
    told = json.dumps([what, sorted(prints.items()), models, also], sort_keys=True)
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
    try:
        found = path.lstat()
    except FileNotFoundError:
        return []
    # A zoo from elsewhere must not choose which file is appended to, or what is waited for.
    if stat.S_ISLNK(found.st_mode):
        raise OSError(None, "it is a link")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(None, "it is no ordinary file")
    if found.st_size > SIZE_LIMIT:
        raise OSError(None, "it is larger than any log of looks (8 MB)")
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.split("\n") if line.strip()]


def _identity(line: str) -> tuple[str, str] | None:
    """Which look a line is; None where it does not say."""
    try:
        data = json.loads(line)
        return _DIGEST.validate_python(data["zoo"]), _DIGEST.validate_python(data["fingerprint"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_digest(text: str) -> bool:
    try:
        _DIGEST.validate_python(text)
    except ValidationError:
        return False
    return True
