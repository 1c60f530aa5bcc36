"""What is wrong with a file that a person wrote, in one line. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from clipguard.errors import UsageError
from clipguard.policy.strict_yaml import Location
from clipguard.record.schema import plain_message
from clipguard.registry import require_known
from clipguard.text_safety import safe_text


class Section(BaseModel):
    """Base of the parts of such a file: nothing is coerced, no unknown keys, finite numbers."""

    KEY: ClassVar[str] = "policy key"
    """What messages call a key of the file."""
    HELP: ClassVar[str] = "every key must be there, `policy show default` lists them"
    """What to do about one that is missing."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True
    )


def explained(
    error: ValidationError, document: type[Section], lines: Mapping[Location, int], name: str
) -> str:
    """The first thing wrong with a file, in one line.

    Args:
        error: what validation found.
        document: what the file should have been.
        lines: line (from 1) of every key by its path.
        name: what messages call the file, such as `mine.yaml`.
    """
    # A misspelt key is also a missing one; the misspelling is what helps.
    problems = sorted(
        error.errors(), key=lambda e: (e["type"] != "extra_forbidden", lines.get(e["loc"], 0))
    )
    first = problems[0]
    where: Location = first["loc"]
    near = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), 1)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{name} line {near}: {_problem(first['type'], where, first, document)}{more}"


def _problem(kind: str, where: Location, error: Any, document: type[Section]) -> str:
    dotted = safe_text(".".join(str(part) for part in where)) or "the file"
    if kind == "missing":
        return f"missing {document.KEY} {dotted}; {document.HELP}"
    if kind != "extra_forbidden":
        return f"{dotted}: {plain_message(error['msg'])}, got {safe_text(repr(error['input']), 60)}"
    section: Any = document
    for part in where[:-1]:
        known = section.model_fields[part].annotation if isinstance(part, str) else section
        section = next(iter(get_args(known)), known)  # of a list, what it holds
    inside = f"key of {safe_text('.'.join(map(str, where[:-1])))}" if where[1:] else document.KEY
    try:
        require_known(safe_text(where[-1]), list(section.model_fields), inside)
    except UsageError as unknown:
        return str(unknown)
    return f"{dotted} is not a key of such a file"
