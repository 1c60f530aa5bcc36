"""SARIF 2.1.0, for code-scanning views: one run per checkpoint, stable rule ids.

The limits are those of GitHub's code scanning, "SARIF support for code scanning" in its manual.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from clipguard.errors import PASS, POLICY_VIOLATED
from clipguard.record import AuditRecord
from clipguard.record.wording import model_digest, verdict
from clipguard.report.lines import Said, place_of, said
from clipguard.report.rules import RULES, SCORES
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
MOST_ERRORS = 100


@dataclass(frozen=True, kw_only=True)
class Sarif:
    """Results are empty on a pass; a fail is an error, an inconclusive line a warning."""

    SUFFIX: ClassVar[str] = ".sarif"
    MARK: ClassVar[str] = r'"driver":\s*\{\s*"name":\s*"clipguard"'

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        lines = said(record)
        used = sorted({line.rule for line in lines})
        digest = model_digest(record)
        shown = digest[:12] if digest else "unidentified"
        run = {
            "tool": {
                "driver": {
                    "name": "clipguard",
                    "version": safe_text(record.tool.version),
                    "rules": [_rule(rule, lines) for rule in used],
                }
            },
            # GitHub closes the alerts of a category, which is what stands before the last slash.
            "automationDetails": {"id": f"clipguard/{place_of(record)}/{quote(shown)}"},
            "invocations": [_invocation(record)],
            "results": [_result(record, line, used.index(line.rule)) for line in lines],
        }
        return _written([run])

    def join(self, documents: Sequence[str]) -> str:
        """See `Joinable.join`; one run for each model, each of a category of its own."""
        runs = [run for text in documents for run in json.loads(text)["runs"]]
        seen: Counter[str] = Counter()
        for run in runs:
            category, _, digest = run["automationDetails"]["id"].rpartition("/")
            seen[category] += 1
            if seen[category] > 1:  # two runs of one category are refused
                run["automationDetails"]["id"] = f"{category}-{seen[category]}/{digest}"
        return _written(runs)


METHOD: type[Renderer] = Sarif


def _written(runs: list[dict[str, Any]]) -> str:
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": runs}
    return json.dumps(log, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _result(record: AuditRecord, line: Said, rule: int) -> dict[str, Any]:
    place = place_of(record)
    identity = json.dumps([line.rule, place, line.about])
    waived = {"kind": "external", "status": "accepted", "justification": message(line.waived)}
    return {
        "ruleId": line.rule,
        "ruleIndex": rule,
        "level": line.level,
        "message": {"text": message(line.text)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": place},
                    "region": {"startLine": 1},
                }
            }
        ],
        "partialFingerprints": {
            "primaryLocationLineHash": f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}:1"
        },
        **({"suppressions": [waived]} if line.waived else {}),
    }


def message(text: str) -> str:
    """`text` as a SARIF message without embedded links (3.11.6) and placeholders (3.11.5)."""
    shown = safe_text(text, 1000)
    for mark, escaped in (("\\", "\\\\"), ("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        shown = shown.replace(mark, escaped)
    return shown


def _rule(rule: str, lines: Sequence[Said]) -> dict[str, Any]:
    name, text = RULES[rule]
    told = f"{text}. `clipguard policy explain {rule}` names the keys of the policy."
    scores = [SCORES[one.severity] for one in lines if one.rule == rule and one.severity]
    loudest = {"security-severity": f"{max(scores):.1f}"} if scores else {}
    return {
        "id": rule,
        "name": name,
        "shortDescription": {"text": text},
        "fullDescription": {"text": text},
        "help": {"text": told},
        "properties": {"tags": ["security"], **loudest},
    }


def _invocation(record: AuditRecord) -> dict[str, Any]:
    code = verdict(record).exit_code
    notes = [
        {
            "level": "warning" if error.out_of_time else "error",
            "message": {"text": message(f"{error.stage}: {error.message}")},
        }
        for error in record.errors[:MOST_ERRORS]
    ]
    return {
        "executionSuccessful": code in {PASS, POLICY_VIOLATED},
        "exitCode": code,
        **({"toolExecutionNotifications": notes} if notes else {}),
    }
