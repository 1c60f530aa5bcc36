"""What records come to under a policy, beside what they should. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipguard.errors import UsageError
from clipguard.files import read_given
from clipguard.policy.strict_yaml import SIZE_LIMIT, parse_policy_yaml
from clipguard.record import Decision
from clipguard.registry import require_known
from clipguard.text_safety import safe_text

DECISIONS = [one.value for one in Decision]


def read_expected(path: Path) -> dict[str, str]:
    """What each record must come to.

    Args:
        path: YAML with a decision by the path, or the end of the path, of each record.

    Raises:
        UsageError: unreadable, no mapping, or a word that is no decision.
    """
    data, _ = parse_policy_yaml(read_given(path, SIZE_LIMIT), safe_text(path.name))
    if not isinstance(data, dict) or not data:
        raise UsageError(f"{safe_text(path.name)}: expected lines such as `audit.json: fail`")
    for decision in data.values():
        require_known(safe_text(decision), DECISIONS, "decision")
    return data


@dataclass(frozen=True)
class Trial:
    """Records under a policy.

    Attributes:
        found: decision in the record and under the policy, by its path.
        expected: decision by the end of a path; None where nothing is expected.
    """

    found: Mapping[str, tuple[str, str]]
    expected: Mapping[str, str] | None

    @property
    def as_expected(self) -> bool:
        """Whether every record comes to what it must, and every one that is expected is there."""
        if self.expected is None:
            return True
        right = all(self._wanted(path) in ("", now) for path, (_, now) in self.found.items())
        return right and not self._missing()

    def rows(self) -> list[str]:
        """A table: before, now, what was expected, and the record."""
        head = ("before", "now", "expected", "record")
        table = [head]
        for path, (before, now) in self.found.items():
            wanted = self._wanted(path)
            mark = "" if wanted in ("", now) else "  <- not as expected"
            table.append((before, now, wanted or "-", safe_text(path, 400) + mark))
        table += [("-", "-", d, f"{safe_text(n)}  <- not there") for n, d in self._missing()]
        return [f"{a:14}{b:14}{c:14}{d}" for a, b, c, d in table]

    def _wanted(self, path: str) -> str:
        expected = self.expected or {}
        ends = [end for end in expected if f"/{path}".endswith(f"/{end}")]
        return expected[max(ends, key=len)] if ends else ""

    def _missing(self) -> list[tuple[str, str]]:
        return [
            (end, decision)
            for end, decision in (self.expected or {}).items()
            if not any(f"/{path}".endswith(f"/{end}") for path in self.found)
        ]
