"""Waivers: lines that somebody takes responsibility for, one model at a time. No torch here.

A waiver that has expired, is for another model, or is broader than allowed changes no decision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationError

from clipguard.errors import UsageError
from clipguard.files import read_given
from clipguard.policy import strict_yaml
from clipguard.policy.line import Line
from clipguard.policy.problems import Section, explained
from clipguard.record import Sha256, WaiverRecord
from clipguard.text_safety import safe_text

LONGEST = timedelta(days=180)
"""From today to the last day of a waiver."""
NO_WAIVER = {"backdoor", "backdoor.references", "backdoor.grounds"}
"""Lines without which nothing is known of the model; their way is another scan, or the policy."""
SECTIONS = ("backdoor.", "coverage.")


class Waiver(Section):
    """One line of one model, and who takes responsibility for it.

    Attributes:
        check: policy key of the line, such as `backdoor.max_gap`.
        target: class or trigger family that the line is about; left out for a line about none.
        sha256: digest of the model.
        reason: why the line does not stop the release.
        owner: who says so.
        expires: last day on which it holds, at most 180 days from today.
        ticket: where it was discussed.
    """

    check: str = Field(min_length=1, max_length=80)
    target: str | None = Field(None, max_length=200)
    sha256: Sha256
    reason: str = Field(min_length=1, max_length=500)
    owner: str = Field(min_length=1, max_length=120)
    expires: date
    ticket: str = Field("", max_length=200)


class WaiverDocument(Section):
    """A waiver file, key by key."""

    KEY: ClassVar[str] = "waiver key"
    HELP: ClassVar[str] = "a waiver has check, sha256, reason, owner and expires"

    version: Literal[1]
    waivers: Annotated[tuple[Waiver, ...], Field(strict=False, max_length=1000)]


@dataclass(frozen=True)
class Waivers:
    """What was read from a waiver file, on a day.

    Attributes:
        rows: the waivers.
        sha256: digest of the file's bytes.
        today: the day on which they are looked at.
        source: the path that was given.
    """

    rows: tuple[Waiver, ...]
    sha256: str
    today: date
    source: Path = Path("waivers.yaml")

    def too_broad(self, row: Waiver) -> str:
        """What is too broad about it by itself: its line, or its time. Empty if nothing is."""
        if not row.check.startswith(SECTIONS) or row.check in NO_WAIVER:
            return "nobody may waive this line"
        last = self.today + LONGEST
        if row.expires > last:
            return f"its last day is after {last}, {LONGEST.days} days from now"
        return ""


def load_waivers(path: Path, today: date | None = None) -> Waivers:
    """Read and check a waiver file.

    Args:
        path: a YAML file that somebody named.
        today: the day; in UTC and now if left out.

    Raises:
        UsageError: no such file, or one that is not valid; the message names the line.
    """
    text, name = read_given(path, strict_yaml.SIZE_LIMIT), safe_text(path.name)
    data, lines = strict_yaml.parse_policy_yaml(text, name)
    try:
        document = WaiverDocument.model_validate(data)
    except ValidationError as error:
        raise UsageError(explained(error, WaiverDocument, lines, name)) from error
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return Waivers(document.waivers, digest, today or datetime.now(timezone.utc).date(), path)


@dataclass
class Waiving:
    """Waivers on their way through the lines of one model.

    Attributes:
        given: the waivers; None for none.
        sha256: digest of the model; None where it is not known.
        told: why each waived line does not count, as reasons of the decision.
    """

    given: Waivers | None
    sha256: str | None
    told: list[str] = field(default_factory=list)
    _used: set[int] = field(default_factory=set)
    _broad: set[int] = field(default_factory=set)

    def __call__(self, lines: Sequence[Line]) -> list[Line]:
        """The lines, those that are waived counting no more."""
        return [made if made.passes else self._waived(made) for made in lines]

    def records(self) -> tuple[WaiverRecord, ...]:
        """What became of each waiver, once every line was seen."""
        rows = self.given.rows if self.given else ()
        return tuple(
            WaiverRecord(
                **row.model_dump(exclude={"expires"}),
                expires=row.expires.isoformat(),
                state=self._state(number, row),
                why=self._why(number, row),
            )
            for number, row in enumerate(rows)
        )

    def _waived(self, made: Line) -> Line:
        check = made.check
        for number, row in enumerate(self.given.rows if self.given else ()):
            if row.check != check.key or self._state(number, row) not in ("unused", "used"):
                continue
            if check.target is not None and row.target is None:
                self._broad.add(number)  # it would hold for whatever is found next
            elif row.target == check.target:
                self._used.add(number)
                until = f"waived until {row.expires} by {row.owner} ({row.reason})"
                self.told.append(f"{until}: {check.reason}")
                return replace(
                    made, check=check.model_copy(update={"waived": True, "counts": False})
                )
        return made

    def _why(self, number: int, row: Waiver) -> str:
        told = self.given.too_broad(row) if self.given else ""
        if not told and number in self._broad:
            told = "the line is about a class or trigger family; name that as its target"
        return told

    def _state(
        self, number: int, row: Waiver
    ) -> Literal["used", "unused", "expired", "other_model", "too_broad"]:
        if number in self._used:
            return "used"
        if self._why(number, row):
            return "too_broad"
        if self.given is None or row.expires < self.given.today:
            return "expired"
        if row.sha256 != self.sha256:
            return "other_model"
        return "unused"
