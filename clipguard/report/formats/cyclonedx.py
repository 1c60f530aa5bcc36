"""A CycloneDX bill of materials: the model with its card, and findings as its vulnerabilities.

Source:
    CycloneDX 1.6, written by cyclonedx-python-lib; the library has no model card, so that is put
    into what it wrote.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clipguard.record import AuditRecord, Rate
from clipguard.record.schema import dumps
from clipguard.record.wording import model_digest, name_of, verdict
from clipguard.report.lines import Said, said
from clipguard.report.rules import RULES
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.vulnerability import Vulnerability

    from clipguard.report.roles import Renderer

SPACE = uuid.UUID("7f0c3a0e-5d0f-4e55-9a43-2b1f6f2c1d11")
MOST = 200
PARTS = {"components": "bom-ref", "vulnerabilities": "bom-ref", "dependencies": "ref"}
"""Lists of a bill, and what their entries are named by."""
SENTENCE = 1000


@dataclass(frozen=True, kw_only=True)
class Cyclonedx:
    """One component for the model, one for the reference; ratings are the policy's severities."""

    SUFFIX: ClassVar[str] = ".cdx.json"
    MARK: ClassVar[str] = r'"name": "clipguard:[a-z_0-9]+"'

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6

        reference = str(uuid.uuid5(SPACE, dumps(record)))
        model = _model(record, reference)
        found = [_finding(number, line, model) for number, line in enumerate(said(record)[:MOST])]
        bom = Bom(
            serial_number=uuid.uuid5(SPACE, reference),
            components=[model],
            vulnerabilities=found,
        )
        bom.metadata.timestamp = _created(record)
        version = safe_text(record.tool.version)
        bom.metadata.tools.components.add(
            Component(type=ComponentType.APPLICATION, name="clipguard", version=version)
        )
        document = json.loads(JsonV1Dot6(bom).output_as_string())
        document["components"][0]["modelCard"] = _card(record)
        return _written(document)

    def join(self, documents: Sequence[str]) -> str:
        """See `Joinable.join`; one bill with a component for each model."""
        first, *_ = bills = [json.loads(text) for text in documents]
        names = "".join(bill["serialNumber"] for bill in bills)
        first["serialNumber"] = uuid.uuid5(SPACE, names).urn
        for part, name in PARTS.items():  # a record that was given twice stands there once
            merged = {one[name]: one for bill in bills for one in bill.get(part, ())}
            first |= {part: [*merged.values()]} if merged else {}
        return _written(first)


METHOD: type[Renderer] = Cyclonedx


def _written(document: dict[str, Any]) -> str:
    text = json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False)
    return text.replace("##", "#\\u0023") + "\n"


def _model(record: AuditRecord, reference: str) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    digest = model_digest(record)
    told = ((key, safe_text(value, SENTENCE)) for key, value in _properties(record) if value)
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=reference,
        name=safe_text(name_of(record)),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else None,
        properties=[Property(name=f"clipguard:{key}", value=value) for key, value in told],
    )


def _properties(record: AuditRecord) -> Iterator[tuple[str, str]]:
    word, why, code, decision = verdict(record)
    yield "decision", decision.value
    yield "verdict", f"{word}: {why}"
    yield "exit_code", str(code)
    yield "policy", record.gate.policy if record.gate else ""
    yield "policy_sha256", record.gate.policy_sha256 if record.gate else ""
    yield "waived", ", ".join(c.key for c in record.gate.checks if c.waived) if record.gate else ""
    yield "reference_sha256", record.reference.sha256 if record.reference else ""


def _finding(number: int, line: Said, model: Component) -> Vulnerability:
    from cyclonedx.model.impact_analysis import ImpactAnalysisState
    from cyclonedx.model.vulnerability import (
        BomTarget,
        Vulnerability,
        VulnerabilityAnalysis,
        VulnerabilityRating,
        VulnerabilitySeverity,
        VulnerabilitySource,
    )

    severity = VulnerabilitySeverity(line.severity) if line.severity else None
    waived = VulnerabilityAnalysis(
        state=ImpactAnalysisState.IN_TRIAGE, detail=safe_text(f"waived: {line.waived}", SENTENCE)
    )
    return Vulnerability(
        bom_ref=f"{model.bom_ref.value}-{number}",
        id=line.rule,
        source=VulnerabilitySource(name="clipguard"),
        ratings=[VulnerabilityRating(severity=severity)] if severity else None,
        description=RULES[line.rule][1],
        detail=safe_text(line.text, SENTENCE),
        analysis=waived if line.waived else None,
        affects=[BomTarget(ref=str(model.bom_ref.value))],
    )


def _created(record: AuditRecord) -> datetime:
    """When the audit was made; the dawn of time where a stranger's record has no date."""
    text = record.times.created
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)", text):
        try:
            return datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            pass
    return datetime.fromtimestamp(0, timezone.utc)


def _card(record: AuditRecord) -> dict[str, Any]:
    known, probe = record.checkpoint, record.probe
    limits = [f"{gap.what}: {gap.why}" for gap in record.coverage.not_tested[:MOST]]
    if record.purification is not None:
        limits.insert(0, f"Scope of the repair: {record.purification.statement}")
    architecture = safe_text(known.architecture) if known else ""
    parameters: dict[str, Any] = {"task": "zero-shot image classification"}
    if architecture:
        parameters |= {"architectureFamily": "CLIP", "modelArchitecture": architecture}
    if probe is not None:
        source = safe_text(f"probe images: {probe.source}, {probe.classes} classes")
        parameters["datasets"] = [{"type": "dataset", "name": source}]
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(record))},
        "considerations": {"technicalLimitations": [safe_text(one, SENTENCE) for one in limits]},
    }


def _metrics(record: AuditRecord) -> Iterator[dict[str, Any]]:
    """Clean accuracy, and the attack success rate of the strongest triggers."""
    if record.probe and record.probe.clean_accuracy:
        yield _metric("clean accuracy", record.probe.clean_accuracy, "measure images")
    rows = [row for found in record.detectors for row in found.candidates][:MOST]
    for row in rows:
        yield _metric("attack success rate", row.asr, f"{row.family} trigger for {row.target}")


def _metric(kind: str, rate: Rate, about: str) -> dict[str, Any]:
    return {
        "type": kind,
        "value": f"{rate.value:.6g}",
        "slice": safe_text(about),
        "confidenceInterval": {"lowerBound": f"{rate.low:.6g}", "upperBound": f"{rate.high:.6g}"},
    }
