"""What the record says of a file that was refused: which it was, which rule it breaks, and why."""

from __future__ import annotations

import re
from pathlib import Path

from clipguard.checkpoint.inspection import sha256_of
from clipguard.errors import RefusedError
from clipguard.record import RefusedRecord
from clipguard.text_safety import safe_text

RULE = re.compile(r"\bCG1\d\d\b")
REFERENCE = "reference: "


def refused(path: Path, reason: str) -> RefusedRecord | None:
    """The record of a refusal, or None if it was the reference that was refused.

    Args:
        path: the file or folder that was given.
        reason: the message of the refusal, which begins with the name of a file.
    """
    if reason.startswith(REFERENCE):
        return None
    file = path
    if path.is_dir():
        inside = [one for one in path.iterdir() if reason.startswith(f"{safe_text(one.name)}: ")]
        file = inside[0] if inside else path
    rule = RULE.search(reason)
    record = RefusedRecord(
        name=safe_text(path.name or path.absolute().name),
        file=safe_text(file.name),
        rule=rule.group() if rule else None,
        reason=reason.removeprefix(f"{safe_text(file.name)}: "),
    )
    try:
        known = {"sha256": sha256_of(file), "size_bytes": file.stat().st_size}
    except (OSError, RefusedError):  # a folder, a pipe, or what may not be read
        return record
    return record.model_copy(update=known)
