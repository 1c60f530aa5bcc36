"""Audits of small models by a policy that few images satisfy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipguard.audit.options import Options
from clipguard.audit.scan import audit
from clipguard.policy.judge import Policy, load_policy
from clipguard.record import AuditRecord, Decision
from clipguard.resources import shipped


def policy(folder: Path, **changes: str) -> Policy:
    """The default policy for 100 images, with other values for some keys."""
    text = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    for key, value in {"min_measure_images": "100", **changes}.items():
        (row,) = [i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
        lines[row] = f"{lines[row].partition(':')[0]}: {value}"
    path = folder / "mine.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_policy(path)


def scan(nano: Path, folder: Path, **options: Any) -> AuditRecord:
    limits = options.pop("policy", None) or policy(folder)
    return audit(nano, Options(policy=limits, **options), folder / "out", progress=lambda *_: None)


def decision(record: AuditRecord) -> Decision:
    assert record.gate is not None
    return record.gate.decision
