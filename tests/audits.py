"""Audits of small models by a policy that few images satisfy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samples import changed_policy

from clipguard.audit.options import Options
from clipguard.audit.scan import audit
from clipguard.policy.judge import Policy, load_policy
from clipguard.record import AuditRecord, Decision


def policy(folder: Path, **changes: str) -> Policy:
    """The default policy for 100 images, with other values for some keys."""
    return load_policy(changed_policy(folder, min_measure_images="100", **changes))


def scan(nano: Path, folder: Path, **options: Any) -> AuditRecord:
    limits = options.pop("policy", None) or policy(folder)
    return audit(nano, Options(policy=limits, **options), folder / "out", progress=lambda *_: None)


def decision(record: AuditRecord) -> Decision:
    return record.gate.decision
