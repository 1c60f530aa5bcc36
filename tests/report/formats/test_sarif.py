import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from samples import (
    RECORDS,
    failing,
    held_against,
    inconclusive,
    judged,
    passing,
    refused,
    unjudged,
)

from clipguard.errors import UsageError
from clipguard.record import AuditRecord, CalibrationRecord, Check, Decision, ErrorRecord
from clipguard.report.formats import RENDERERS
from clipguard.report.formats.sarif import message
from clipguard.report.lines import MOST, place_of
from clipguard.report.outputs import rendered
from clipguard.report.rules import RULE_OF_KEY, RULE_OF_WAIVER, RULES


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
        assert re.fullmatch(r"[A-Za-z0-9._~%-]+(/[A-Za-z0-9._~%-]+)+", uri), "never a bare name"
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
        (unknown, [("CG204", "warning")]),
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
    assert {"CG602", "CG204", "CG609"} <= {r["ruleId"] for r in only["results"]}
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
    others = {"CG301", "CG303", "CG604", "CG609", *RULE_OF_WAIVER.values()}
    assert set(RULE_OF_KEY.values()) | of_files | others == set(RULES)


def test_what_was_not_measured_is_of_no_rule_that_says_something_was_found() -> None:
    empty = {"candidates": (), "families": (), "apart": (), "score": None, "statistic": None}
    [detector] = held_against().detectors
    spent = ErrorRecord(stage="detect", message="m", exit_code=3, out_of_time=True)
    record = unjudged(detectors=(detector.model_copy(update=empty),), errors=(spent,))
    record = judged(record.model_copy(update={"reference": held_against().reference}))
    assert record.gate.decision is Decision.INCONCLUSIVE
    rules = {result["ruleId"] for result in run(record)["results"]}
    assert "CG201" not in rules
    assert {"CG608", "CG609"} <= rules
    assert "CG906" not in rules


def test_messages_hold_no_links_and_no_placeholders() -> None:
    assert message("[a](https://x) {0} \\") == r"\[a\](https://x) {{0}} \\"


def test_a_record_that_was_not_judged_is_no_clean_run() -> None:
    only = run(unjudged())
    assert [result["level"] for result in only["results"]] == ["warning"]
    assert only["invocations"][0]["executionSuccessful"] is False


def at(record: AuditRecord, location: str | None) -> AuditRecord:
    return record.model_copy(update={"location": location})


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("models/a b.pt", "models/a%20b.pt"),
        ("model.pt", "model.pt"),
        (None, "outside-the-repository/model.pt"),
        ("/etc/passwd", "outside-the-repository/model.pt"),
        ("../../x", "outside-the-repository/model.pt"),
        ("a//b", "outside-the-repository/model.pt"),
        ("a\\..\\b", "outside-the-repository/model.pt"),
        ("https://evil.example/x", "outside-the-repository/model.pt"),
    ],
)
def test_a_place_is_a_way_down_from_the_root(location: str | None, uri: str) -> None:
    assert place_of(at(failing(), location)) == uri


def test_fingerprints_differ_between_models_and_last_when_a_model_is_trained_again() -> None:
    one, other = (fingerprints(at(failing(), where)) for where in ("a/model.pt", "b/model.pt"))
    assert not set(one) & set(other)
    known = failing().checkpoint.model_copy(update={"sha256": "ab" * 32})
    again = judged(failing().model_copy(update={"checkpoint": known}))
    assert fingerprints(at(again, "a/model.pt")) == one


def test_runs_of_one_file_have_categories_of_their_own() -> None:
    """GitHub refuses two runs of one tool and category."""
    same = [(failing(), Path("x")), (passing(), Path("y")), (at(failing(), "a/b.pt"), Path("z"))]
    runs = json.loads(rendered("sarif", same))["runs"]
    categories = [one["automationDetails"]["id"].rpartition("/")[0] for one in runs]
    assert len(set(categories)) == len(runs) == 3
    assert all(categories)


def test_one_file_takes_twenty_runs() -> None:
    twenty = [(passing(), Path("x"))] * 20
    assert len(json.loads(rendered("sarif", twenty))["runs"]) == 20
    with pytest.raises(UsageError, match="at most 20"):
        rendered("sarif", [*twenty, *twenty])


def test_more_results_than_github_takes_are_cut_gravest_first_and_the_cut_is_told() -> None:
    record = failing()
    note = record.gate.checks[0].model_copy(
        update={"result": Decision.INCONCLUSIVE, "counts": False, "reason": "r" * 5000}
    )
    gate = record.gate.model_copy(update={"checks": (*[note] * (MOST + 7), *record.gate.checks)})
    results = run(record.model_copy(update={"gate": gate}))["results"]
    assert len(results) == MOST
    assert [result["level"] for result in results[:3]] == ["error", "error", "note"]
    assert re.match(r"\d+ more", results[-1]["message"]["text"])
    assert len(fingerprints(record)) == len(set(fingerprints(record)))


@pytest.mark.parametrize("kind", RECORDS)
def test_texts_and_tags_keep_the_limits_of_github(kind: str) -> None:
    text = RENDERERS.build("sarif").render(RECORDS[kind](), Path("nowhere"))
    assert len(gzip.compress(text.encode())) < 10 * 2**20
    [only] = json.loads(text)["runs"]
    for rule in only["tool"]["driver"]["rules"]:
        assert len(rule["name"]) <= 255
        assert len(rule["properties"]["tags"]) <= 10
        assert all(len(rule[part]["text"]) <= 1024 for part in ("shortDescription", "help"))
    for result in only["results"]:
        assert len(result["locations"]) == 1
        assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 1


def test_the_severity_of_the_policy_is_a_number_that_github_reads() -> None:
    rules = run(failing())["tool"]["driver"]["rules"]
    scores = {rule["id"]: rule["properties"].get("security-severity") for rule in rules}
    assert scores == {"CG201": "9.5", "CG303": None}
