import json
import re
from pathlib import Path
from typing import Any

import pytest
from samples import RECORDS, failing, inconclusive, judged, passing, refused, unjudged

from clipguard.record import AuditRecord, CalibrationRecord, Check, Decision, ErrorRecord
from clipguard.report.formats import RENDERERS
from clipguard.report.formats.sarif import RULE_OF_KEY, RULES, message


def render(record: AuditRecord) -> dict[str, Any]:
    return json.loads(RENDERERS.build("sarif").render(record, Path("nowhere")))


def run(record: AuditRecord) -> dict[str, Any]:
    (only,) = render(record)["runs"]
    return only


@pytest.mark.parametrize("kind", RECORDS)
def test_the_structure_is_that_of_sarif(kind: str) -> None:
    log = render(RECORDS[kind]())
    assert log["version"] == "2.1.0"
    (only,) = log["runs"]
    rules = only["tool"]["driver"]["rules"]
    assert only["tool"]["driver"]["name"] == "clipguard"
    assert [rule["id"] for rule in rules] == sorted({r["ruleId"] for r in only["results"]})
    for result in only["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"error", "warning", "note"}
        assert result["message"]["text"]
        (location,) = result["locations"]
        uri = location["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9._~%-]+", uri)
        assert re.fullmatch(
            r"[0-9a-f]{32}:1", result["partialFingerprints"]["primaryLocationLineHash"]
        )


def unknown() -> AuditRecord:
    """Without a null band."""
    return judged(unjudged(calibration=CalibrationRecord(kind="none")))


@pytest.mark.parametrize(
    ("make", "results"),
    [
        (passing, []),
        (failing, [("CG201", "error")] * 2 + [("CG303", "note")]),  # it names the scope
        (unknown, [("CG202", "warning")]),
    ],
)
def test_a_finding_is_an_error_and_what_is_not_known_a_warning(make, results) -> None:
    assert [(found["ruleId"], found["level"]) for found in run(make())["results"]] == results


def test_a_limit_that_the_head_missed_is_a_note_where_it_decides_nothing() -> None:
    record = failing()
    missed = Check(
        key="purification.max_asr",
        limit="x",
        value="y",
        result=Decision.FAIL,
        counts=False,
        reason="z",
    )
    gate = record.gate.model_copy(update={"checks": (*record.gate.checks, missed)})
    found = run(record.model_copy(update={"gate": gate}))["results"]
    assert [r["level"] for r in found if r["ruleId"] == "CG301"] == ["note"]


def test_an_inconclusive_line_is_a_warning() -> None:
    only = run(inconclusive())
    assert {r["level"] for r in only["results"]} == {"warning"}
    assert {"CG602", "CG202"} <= {r["ruleId"] for r in only["results"]}
    assert only["invocations"][0]["executionSuccessful"] is False


def test_an_error_becomes_a_notification() -> None:
    error = ErrorRecord(stage="load", message="no memory", exit_code=5)
    (invocation,) = run(judged(unjudged(errors=(error,))))["invocations"]
    assert invocation["exitCode"] == 5
    assert "no memory" in invocation["toolExecutionNotifications"][0]["message"]["text"]


def test_a_refused_file_is_one_error_of_the_rule_that_it_breaks() -> None:
    found = run(refused())
    (result,) = found["results"]
    assert (result["ruleId"], result["level"]) == ("CG101", "error")
    assert "posix.system" in result["message"]["text"]
    assert found["invocations"][0]["exitCode"] == 4


def fingerprints(record: AuditRecord) -> list[str]:
    return [r["partialFingerprints"]["primaryLocationLineHash"] for r in run(record)["results"]]


@pytest.mark.parametrize("kind", RECORDS)
def test_fingerprints_differ_within_a_run(kind: str) -> None:
    found = fingerprints(RECORDS[kind]())
    assert len(found) == len(set(found))


def test_fingerprints_survive_other_numbers() -> None:
    first = failing()
    (detector,) = first.detectors
    again = first.model_copy(
        update={"detectors": (detector.model_copy(update={"score": 0.991, "excess": 20.0}),)}
    )
    assert fingerprints(judged(again)) == fingerprints(first)


def test_every_key_has_a_rule_that_exists() -> None:
    of_files = {rule for rule in RULES if rule.startswith("CG1")}
    assert set(RULE_OF_KEY.values()) | of_files | {"CG301", "CG303", "CG604"} == set(RULES)


def test_messages_hold_no_links_and_no_placeholders() -> None:
    assert message("[a](https://x) {0} \\") == r"\[a\](https://x) {{0}} \\"
