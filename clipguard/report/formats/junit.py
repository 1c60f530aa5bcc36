"""JUnit XML, for the test views of CI servers: a suite for each model, a case for each line.

Source:
    The schema of Jenkins' xUnit plugin, junit-10.xsd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from xml.etree import ElementTree

from clipguard.record import AuditRecord, Check, Decision, GateRecord
from clipguard.record.wording import UNJUDGED, model_digest, name_of, verdict
from clipguard.report.lines import reason_of
from clipguard.report.rules import rule_of
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer

Element = ElementTree.Element
COUNTED = ("tests", "failures", "errors", "skipped")
KINDS = {Decision.FAIL: "failure", Decision.INCONCLUSIVE: "error"}


@dataclass(frozen=True, kw_only=True)
class Junit:
    """A fail is a failure, an inconclusive line an error; what does not count is skipped."""

    SUFFIX: ClassVar[str] = ".junit.xml"
    MARK: ClassVar[str] = r'<testsuites name="clipguard"'

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        return _written([_suite(record)])

    def join(self, documents: Sequence[str]) -> str:
        """See `Joinable.join`."""
        # Each was made here, a line ago: the parser reads no text of a stranger.
        roots = map(ElementTree.fromstring, documents)
        return _written([suite for root in roots for suite in root])


METHOD: type[Renderer] = Junit


def _written(suites: list[Element]) -> str:
    root = Element("testsuites", {"name": "clipguard"})
    for count in COUNTED[:3]:
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    root.extend(suites)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _suite(record: AuditRecord) -> Element:
    name, gate = safe_text(name_of(record)), record.gate
    cases = [_case(name, check, gate) for check in gate.checks] if gate else [_unjudged(name)]
    kinds = [child.tag for case in cases for child in case]
    seconds = sum(record.times.seconds.values())
    suite = Element(
        "testsuite",
        {
            "name": name,
            "tests": str(len(cases)),
            "failures": str(kinds.count("failure")),
            "errors": str(kinds.count("error")),
            "skipped": str(kinds.count("skipped")),
            "time": f"{seconds:.3f}" if 0 <= seconds < 1e9 else "0.000",
        },
    )
    word, why, code, decision = verdict(record)
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in (
        ("decision", decision.value),
        ("exit_code", code),
        ("verdict", f"{word}: {why}"),
        ("policy", gate.policy if gate else ""),
        ("sha256", model_digest(record) or ""),
    ):
        shown = {"name": key, "value": safe_text(value, 1000)}
        ElementTree.SubElement(properties, "property", shown)
    suite.extend(cases)
    return suite


def _unjudged(name: str) -> Element:
    case = Element("testcase", {"classname": name, "name": "gate"})
    ElementTree.SubElement(case, "error", {"type": "CG605", "message": UNJUDGED})
    return case


def _case(name: str, check: Check, gate: GateRecord) -> Element:
    case = Element("testcase", {"classname": name, "name": safe_text(check.key)})
    if check.result is Decision.PASS:
        return case
    kind = KINDS[check.result] if check.counts else "skipped"
    reason = reason_of(check, gate)
    detail = ElementTree.SubElement(
        case, kind, {"type": rule_of(check), "message": safe_text(reason, 1000)}
    )
    detail.text = safe_text(f"measured {check.value}, limit {check.limit}", 400)
    return case
