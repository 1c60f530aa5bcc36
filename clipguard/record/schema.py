"""The audit record as JSON, read with suspicion. No torch here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clipguard.errors import UsageError
from clipguard.files import read_given
from clipguard.record import SCHEMA_VERSION, AuditRecord
from clipguard.text_safety import safe_text

SIZE_LIMIT = 16 * 1024 * 1024
MAX_DIGITS = 15
FAMILY, MAJOR = SCHEMA_VERSION.split("/")
READ = ("1", MAJOR)
REMOVED = (
    ("reference", "architecture"),
    ("probe", "templates"),
    ("purification", "settings"),
    ("gate", "outcomes"),
    ("detectors", "candidates", "trigger", "family"),
)
"""Where keys stood in a record of version 1 that no record has today."""


def dumps(record: AuditRecord) -> str:
    """`record` as ASCII JSON in model order, with a final line end; equal records, equal text.

    Lone surrogates, which file names may hold and JSON readers refuse, become `?`.
    """
    raw = json.dumps(record.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    data = json.loads(raw.encode("utf-8", "replace"))
    text = json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    return text.replace("##", "#\\u0023")  # no command to a CI runner that prints it


def loads(text: str) -> AuditRecord:
    """Read a record from anyone.

    Records of `clipguard.audit/1` are read as of today. Keys that a newer minor version added are
    left out; a newer major version is refused.

    Raises:
        UsageError: too large, not JSON, duplicate keys, NaN, another schema, or wrong values.
    """
    if len(text) > SIZE_LIMIT:
        raise UsageError(f"expected an audit record of at most {SIZE_LIMIT >> 20} MB, got more")
    try:
        data = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_whole,
        )
    except (ValueError, RecursionError) as error:
        reason = safe_text(error) if isinstance(error, ValueError) else "nested too deeply"
        raise UsageError(
            f"expected an audit record in JSON, got something else: {reason}"
        ) from error
    newer = _version(data)
    if newer[0] == "1":
        upgrade(data)
    data["schema_version"] = SCHEMA_VERSION
    try:
        return _validate(data)
    except ValidationError as first:
        # Without a minor version an unknown key is a mistake, which must not hide what it held.
        if newer[1] is not None:
            _strip_unknown(data, first)
    try:
        return _validate(data)
    except ValidationError as error:
        raise UsageError(f"not a valid audit record: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """Where and what the first thing is that does not fit, in one harmless line."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    return f"{safe_text(where)}: {plain_message(problem['msg'])}"


def plain_message(text: str) -> str:
    """What a validator says, in one harmless line and without what pydantic puts before it."""
    return safe_text(re.sub(r"^(Value error|Assertion failed), ", "", text))


def read_record(path: Path) -> AuditRecord:
    """Read the record in a file.

    Raises:
        UsageError: no such file, unreadable, or not a record (see `loads`).
    """
    shown = safe_text(path, 400)
    text = read_given(path, SIZE_LIMIT)
    try:
        return loads(text)
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the record, as published in `docs/audit.schema.json`."""
    schema = AuditRecord.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def upgrade(data: dict[str, Any]) -> None:
    """Make a `clipguard.audit/1` document one of `/2`, in place.

    What the weights of a model show by themselves is gone, the change from a reference stays. The
    other keys that `/2` lacks hold nothing that was ever read.

    Args:
        data: the parsed document; parts of another shape are left for validation to refuse.
    """
    weights = data.pop("weights", None)
    if isinstance(weights, dict):
        data["reference"] = weights.get("reference")
    for path in REMOVED:
        _drop(data, path)
    detectors = data.get("detectors")
    for detector in detectors if isinstance(detectors, list) else []:
        if isinstance(detector, dict):
            _measurements(detector)
    calibration = data.get("calibration")
    if isinstance(calibration, dict) and calibration.get("kind") == "self-null":
        calibration["kind"] = "none"  # no version made such a band


def _measurements(detector: dict[str, Any]) -> None:
    """What a detector of version 1 measured; it also concluded, which the policy does now.

    Version 1 did not keep which searches had settled, only that its conclusion rested on it, so an
    inconclusive one has none that did; nor the share of prompts, only whether it was enough.
    """
    outcome = detector.pop("outcome", None)
    detector["evidence"] = detector.pop("reason", None)
    if detector.pop("own_null", False):
        detector["word_share"] = 1.0 if outcome == "backdoored" else 0.0
    candidates = detector.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else []:
        if isinstance(candidate, dict):
            candidate["settled"] = outcome != "inconclusive"


def _drop(part: object, path: tuple[str, ...]) -> None:
    for each in part if isinstance(part, list) else [part]:
        if isinstance(each, dict) and path[1:]:
            _drop(each.get(path[0]), path[1:])
        elif isinstance(each, dict):
            each.pop(path[0], None)


def _validate(data: object) -> AuditRecord:
    # Through JSON once more: only there does strict mode take lists for tuples, text for enums.
    try:
        return AuditRecord.model_validate_json(json.dumps(data), strict=True)
    except RecursionError as error:
        raise UsageError("not a valid audit record: nested too deeply") from error


def _version(data: object) -> tuple[str, str | None]:
    """Major and minor version of a record that can be read; no minor version is the first."""
    found = data.get("schema_version") if isinstance(data, dict) else None
    version = re.fullmatch(r"([a-z.]{1,40})/(\d{1,6})(\.\d{1,6})?", str(found))
    if version is None or version[1] != FAMILY:
        raise UsageError(f"expected schema_version {SCHEMA_VERSION!r}, got {safe_text(found)!r}")
    if version[2] not in READ:
        raise UsageError(
            f"record has schema {found}, this clipguard reads {FAMILY}/{' and /'.join(READ)}; "
            "use a clipguard of that major version"
        )
    return version[2], version[3]


def _strip_unknown(data: object, error: ValidationError) -> None:
    for problem in error.errors(include_url=False, include_input=False):
        if problem["type"] == "extra_forbidden":
            *path, last = problem["loc"]
            part: Any = data
            for step in path:
                part = part[step]
            del part[last]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"duplicate key {safe_text(name)!r}")
        found[name] = value
    return found


def _whole(digits: str) -> float:
    # A count of more digits could not be computed with; as a float its field refuses it by name.
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")
