"""SARIF 2.1.0, for code-scanning views: one run per checkpoint, stable rule ids."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from clipguard.errors import PASS, POLICY_VIOLATED
from clipguard.record import AuditRecord, Check, Decision, Outcome
from clipguard.record.wording import name_of, verdict
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {Decision.FAIL: "error", Decision.INCONCLUSIVE: "warning"}
NO_CHECKPOINT = "CG102"
RULES = {
    "CG101": ("UnsafePickle", "The file asks for something that could run code"),
    "CG102": ("NotACheckpoint", "The content is not that of a checkpoint"),
    "CG103": ("DamagedFile", "The file is damaged, or two readers would see two different files"),
    "CG104": ("TooLarge", "The file asks for more than a checkpoint needs"),
    "CG105": (
        "ImpossibleTensor",
        "A tensor does not fit its bytes, or its type is none of weights",
    ),
    "CG107": ("DuplicateKey", "A key stands twice in the header"),
    "CG108": ("UnreadableName", "The name of a tensor is no printable text"),
    "CG109": ("NotFinite", "Weights or embeddings are not finite"),
    "CG111": ("UnsureArchitecture", "The architecture is an assumption, or a rival reads better"),
    "CG112": ("SeveralModels", "The folder holds another model, which a library may load instead"),
    "CG201": ("InvertedTrigger", "A trigger was found that sends images, or prompts, to one class"),
    "CG202": ("AboveNullBand", "A statistic lies outside what known-clean models show"),
    "CG203": ("ConcentratedChange", "The change from the reference is suspicious or unknown"),
    "CG204": ("WeakGround", "The reference or band is not one that a pass may rest on"),
    "CG301": ("PurificationMissed", "The purified head misses a limit of the policy"),
    "CG303": ("PurificationScope", "Only the zero-shot classifier is repaired"),
    "CG304": ("Reinversion", "A new trigger was found through the purified head"),
    "CG401": ("OnnxParity", "The exported file differs from PyTorch"),
    "CG402": ("OnnxTop1", "The exported file ranks another class first"),
    "CG405": ("OnnxAsr", "The attack works differently on the exported file"),
    "CG407": ("OnnxHead", "The exported file does not carry the purified head"),
    "CG601": ("NotTested", "Backdoors were not looked for"),
    "CG602": ("FamilyNotTested", "A required trigger family was not searched"),
    "CG603": ("TooFewImages", "Rates rest on fewer images than the policy asks for"),
    "CG606": ("WrongClasses", "The clean images are not read as their true classes"),
    "CG604": ("WeakSearch", "Profile or null band is weaker than the policy asks for"),
    "CG605": ("CutShort", "The audit did not run to its end"),
    "CG906": ("StageFailed", "A stage failed"),
}
RULE_OF_KEY = {
    "audit.architecture": "CG111",
    "audit.folder": "CG112",
    "audit.complete": "CG605",
    "audit.checkpoint": "CG605",
    "audit.errors": "CG906",
    "backdoor": "CG601",
    "backdoor.max_score": "CG201",
    "backdoor.strong_asr": "CG201",
    "backdoor.max_word_pull": "CG201",
    "backdoor.alpha": "CG202",
    "backdoor.min_excess": "CG202",
    "backdoor.families": "CG602",
    "backdoor.max_unsettled_excess": "CG202",
    "backdoor.max_change_concentration": "CG203",
    "backdoor.max_gap": "CG201",
    "backdoor.max_apart": "CG201",
    "backdoor.max_wide_gap": "CG201",
    "backdoor.grounds": "CG204",
    "backdoor.references": "CG204",
    "backdoor.canary": "CG204",
    "coverage.families": "CG602",
    "coverage.min_clean_accuracy": "CG606",
    "coverage.min_measure_images": "CG603",
    "purification.reinversion": "CG304",
    "export.max_relative_error": "CG401",
    "export.min_top1_agreement": "CG402",
    "export.max_asr_difference": "CG405",
    "export.head": "CG407",
}
RULE_OF_SECTION = {"backdoor": "CG201", "purification": "CG301", "export": "CG401"}
"""For keys without a rule of their own."""


@dataclass(frozen=True, kw_only=True)
class Sarif:
    """Results are empty on a pass; a fail is an error, an inconclusive line a warning."""

    SUFFIX: ClassVar[str] = ".sarif"

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        results = _results(record)
        used = sorted({result["ruleId"] for result in results})
        for result in results:
            result["ruleIndex"] = used.index(result["ruleId"])
        known = record.checkpoint or record.refused
        digest = known.sha256[:12] if known and known.sha256 else "unidentified"
        run = {
            "tool": {
                "driver": {
                    "name": "clipguard",
                    "version": safe_text(record.tool.version),
                    "rules": [_rule(rule) for rule in used],
                }
            },
            "automationDetails": {"id": f"clipguard/{_uri(record)}/{quote(digest)}"},
            "invocations": [_invocation(record)],
            "results": results,
        }
        log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
        return json.dumps(log, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


METHOD: type[Renderer] = Sarif


def _results(record: AuditRecord) -> list[dict[str, Any]]:
    gate = record.gate
    if gate is None or gate.decision is Decision.PASS:
        return []
    results: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    for check in gate.checks:
        # What does not count decides nothing, and still speaks about the file left behind.
        if check.result in LEVELS:
            about = f"{check.key}|{_subject(record, check)}"
            seen[about] += 1
            rule = _rule_of(check)
            level = LEVELS[check.result] if check.counts else "note"
            results.append(_result(record, rule, level, check.reason, f"{about}|{seen[about]}"))
    if record.purification is not None:
        scope = f"Scope of the repair: {record.purification.statement}"
        results.append(_result(record, "CG303", "note", scope, "scope"))
    return results


def _rule_of(check: Check) -> str:
    """That of the policy key; a file that was refused is of the rule that it breaks."""
    if check.key == "audit.refused":
        return check.value if check.value in RULES else NO_CHECKPOINT
    return RULE_OF_KEY.get(check.key) or RULE_OF_SECTION.get(check.key.partition(".")[0], "CG604")


def _subject(record: AuditRecord, check: Check) -> str:
    """What a line is about, without numbers, so that an alert survives a retraining."""
    if check.key == "coverage.families":
        return check.limit
    if check.key.startswith("backdoor."):
        found = record.gate.conclusions if record.gate else ()
        bad = {one.detector for one in found if one.outcome is Outcome.BACKDOORED}
        named = [one for one in record.detectors if one.name in bad] or record.detectors[:1]
        return "|".join(f"{found.name}/{found.target}" for found in named)
    return ""


def _result(record: AuditRecord, rule: str, level: str, reason: str, about: str) -> dict[str, Any]:
    identity = json.dumps([rule, name_of(record), about])
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": message(reason)},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(record)}}}],
        "partialFingerprints": {
            "primaryLocationLineHash": f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}:1"
        },
    }


def message(text: str) -> str:
    """`text` as a SARIF message without embedded links (3.11.6) and placeholders (3.11.5)."""
    shown = safe_text(text, 1000)
    for mark, escaped in (("\\", "\\\\"), ("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        shown = shown.replace(mark, escaped)
    return shown


def _uri(record: AuditRecord) -> str:
    return quote(safe_text(name_of(record)), safe="")


def _rule(rule: str) -> dict[str, Any]:
    name, text = RULES[rule]
    return {"id": rule, "name": name, "shortDescription": {"text": text}}


def _invocation(record: AuditRecord) -> dict[str, Any]:
    code = verdict(record).exit_code
    notes = [
        {"level": "error", "message": {"text": message(f"{error.stage}: {error.message}")}}
        for error in record.errors
    ]
    return {
        "executionSuccessful": code in {PASS, POLICY_VIOLATED},
        "exitCode": code,
        **({"toolExecutionNotifications": notes} if notes else {}),
    }
