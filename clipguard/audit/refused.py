"""What the record says of a file that was refused: which it was, which rule it breaks, and why."""

from __future__ import annotations

import re
from pathlib import Path

from clipguard.audit.options import Options
from clipguard.checkpoint.inspection import sha256_of
from clipguard.errors import RefusedError, UsageError
from clipguard.record import RefusedRecord
from clipguard.text_safety import safe_text

RULE = re.compile(r"CG1\d\d\b")
REFERENCE = "reference: "


def refused(path: Path, options: Options, reason: str) -> RefusedRecord | None:
    """The record of a refusal, or None if it was the reference that was refused.

    Args:
        path: the file or folder that was given.
        options: what else was given.
        reason: the message of the refusal, which begins with the name of a file.
    """
    if options.reference is not None and reason.startswith(REFERENCE):
        return None
    parts = [part for part in (path, options.text_from, options.lora_base) if part is not None]
    inside = [one for part in parts if part.is_dir() for one in part.iterdir()]
    named = [one for one in (*parts, *inside) if reason.startswith(f"{safe_text(one.name)}: ")]
    file = named[0] if named else path
    told = reason.removeprefix(f"{safe_text(file.name)}: ")
    rule = RULE.match(told)
    record = RefusedRecord(
        name=safe_text(path.name or path.absolute().name),
        file=safe_text(file.name),
        rule=rule.group() if rule else None,
        reason=told,
    )
    try:
        known = {"sha256": sha256_of(file), "size_bytes": file.stat().st_size}
    except (OSError, RefusedError, UsageError):  # a folder, a pipe, or what may not be read
        return record
    return record.model_copy(update=known)
