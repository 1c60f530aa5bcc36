"""Every format is valid by its own public schema, whatever the record holds.

The schemas are those of tests/schemas and of the packages that the formats' makers publish.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import xmlschema
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from many_records import MANY, WITH_DIGEST
from samples import failing, passing

from clipguard.errors import UsageError
from clipguard.record import AuditRecord, Decision
from clipguard.record.schema import json_schema, loads
from clipguard.record.wording import verdict
from clipguard.report.formats import RENDERERS
from clipguard.report.outputs import rendered

SCHEMAS = Path(__file__).parents[2] / "schemas"
COMMAND = re.compile(r"::(error|warning|notice) file=[^:,\s]+,line=1,title=[^:,]+::\S.*")
TestResult.__test__ = False


@cache
def record_of(kind: str) -> AuditRecord:
    return MANY[kind]()


def render(name: str, kind: str) -> str:
    return RENDERERS.build(name).render(record_of(kind), Path("nowhere"))


@cache
def sarif_schema() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads((SCHEMAS / "sarif-2.1.0.json").read_text()))


@cache
def junit_schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(SCHEMAS / "junit-10.xsd")


@cache
def record_schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema())


def check_sarif(text: str) -> None:
    sarif_schema().validate(json.loads(text))


def check_junit(text: str) -> None:
    junit_schema().validate(text)


def check_cyclonedx(text: str) -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, str(problem)[:500]


def check_intoto(text: str) -> None:
    for line in text.splitlines():
        data = json.loads(line)
        message = json_format.ParseDict(data, StatementMessage())
        Statement.copy_from_pb(message).validate()
        json_format.ParseDict(data["predicate"], TestResult())
        assert data["predicate"]["result"] in {"PASSED", "WARNED", "FAILED"}


def check_github(text: str) -> None:
    assert all(COMMAND.fullmatch(line) for line in text.splitlines()), text[:500]


def check_json(text: str) -> None:
    data = json.loads(text)
    for record in data if isinstance(data, list) else [data]:
        record_schema().validate(record)
        loads(json.dumps(record))


CHECKS: dict[str, Callable[[str], None]] = {
    "sarif": check_sarif,
    "junit": check_junit,
    "cyclonedx": check_cyclonedx,
    "intoto": check_intoto,
    "github": check_github,
    "json": check_json,
}


def test_there_are_records_of_every_kind() -> None:
    assert len(MANY) >= 30
    made = [verdict(record_of(kind)) for kind in MANY]
    assert {one.decision for one in made} == set(Decision)
    assert {one.exit_code for one in made} >= {0, 1, 3, 4, 5, 6}


@pytest.mark.parametrize("name", CHECKS)
def test_a_format_is_valid_for_every_record(name: str) -> None:
    for kind in WITH_DIGEST if name == "intoto" else MANY:
        CHECKS[name](render(name, kind))


@pytest.mark.parametrize("name", CHECKS)
def test_several_records_are_one_valid_document(name: str) -> None:
    kinds = ("pass", "fail", "pass", "refused", "waived", "payload 20")
    text = rendered(name, [(record_of(kind), Path("nowhere")) for kind in kinds])
    CHECKS[name](text)
    assert text.isascii() or name in ("github", "junit")


def test_what_has_no_digest_cannot_be_attested() -> None:
    for kind in sorted(set(MANY) - set(WITH_DIGEST)):
        with pytest.raises(UsageError, match="digest"):
            render("intoto", kind)


def test_the_checks_would_notice() -> None:
    with pytest.raises(jsonschema.ValidationError):
        check_sarif('{"version": "2.1.0", "runs": [{"results": []}]}')
    with pytest.raises(xmlschema.XMLSchemaException):
        check_junit("<testsuites><testsuite/></testsuites>")
    with pytest.raises(AssertionError):
        check_cyclonedx('{"bomFormat": "CycloneDX", "specVersion": "1.6", "modelCard": {}}')
    with pytest.raises(json_format.ParseError):
        check_intoto('{"_type": "https://in-toto.io/Statement/v1", "subjects": []}')
    with pytest.raises(AssertionError):
        check_github("::error file=a,line=1,title=b::c\n::set-output name=x::y")


def decided(name: str, text: str) -> Any:
    """What a reader of a format takes for the decision."""
    if name == "sarif":
        [run] = json.loads(text)["runs"]
        return {result["level"] for result in run["results"]} - {"note"}
    if name == "junit":
        return set(re.findall("<(failure|error)", text))
    if name == "intoto":
        return json.loads(text)["predicate"]["result"]
    if name == "github":
        return set(re.findall("(?m)^::(error|warning) ", text))
    properties = json.loads(text)["components"][0]["properties"]
    return next(one["value"] for one in properties if one["name"] == "clipguard:decision")


SAID = {
    "pass": {
        "sarif": set(),
        "junit": set(),
        "intoto": "PASSED",
        "github": set(),
        "cyclonedx": "pass",
    },
    "fail": {
        "sarif": {"error"},
        "junit": {"failure"},
        "intoto": "FAILED",
        "github": {"error"},
        "cyclonedx": "fail",
    },
    "inconclusive": {
        "sarif": {"warning"},
        "junit": {"error"},
        "intoto": "FAILED",
        "github": {"warning"},
        "cyclonedx": "inconclusive",
    },
    "unjudged": {
        "sarif": {"warning"},
        "junit": {"error"},
        "intoto": "FAILED",
        "github": {"warning"},
        "cyclonedx": "inconclusive",
    },
    "refused": {
        "sarif": {"error"},
        "junit": {"failure"},
        "intoto": "FAILED",
        "github": {"error"},
        "cyclonedx": "fail",
    },
}


@pytest.mark.parametrize("kind", SAID)
def test_every_format_says_the_same_decision(kind: str) -> None:
    assert {name: decided(name, render(name, kind)) for name in SAID[kind]} == SAID[kind]


@pytest.mark.parametrize("name", [*CHECKS, "text", "markdown", "html"])
def test_a_waived_fail_is_shown_as_waived_in_every_format(name: str) -> None:
    text = render(name, "waived")
    assert re.search("waived", text, re.IGNORECASE)
    assert "vision team" in text.replace("\\", "")
    found = json.loads(text) if name in ("sarif", "intoto") else None
    if name == "sarif":
        results = found["runs"][0]["results"]
        waived = [one for one in results if one.get("suppressions")]
        assert [one["level"] for one in waived] == ["note", "note"]
        rules = {one["ruleId"] for one in results}
        assert {"CG901", "CG902", "CG903"} <= rules, "unused, expired and too broad are findings"
    if name == "intoto":
        assert found["predicate"]["result"] == "WARNED"


def test_the_card_of_a_model_has_its_rates_with_their_intervals() -> None:
    [model] = json.loads(render("cyclonedx", "fail"))["components"]
    assert model["type"] == "machine-learning-model"
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0]["type"] == "clean accuracy"
    assert float(metrics[0]["confidenceInterval"]["lowerBound"]) < float(metrics[0]["value"])
    found = json.loads(render("cyclonedx", "fail"))["vulnerabilities"]
    assert {one["id"] for one in found} == {"CG201", "CG303"}
    assert found[0]["affects"] == [{"ref": model["bom-ref"]}]


def test_a_statement_names_the_exported_file_only_on_a_pass() -> None:
    for record, names in (
        (passing(), ["model.pt", "model.onnx"]),
        (failing(), ["model.pt"]),
    ):
        text = RENDERERS.build("intoto").render(record, Path("nowhere"))
        assert [one["name"] for one in json.loads(text)["subject"]] == names


def test_annotations_of_a_level_are_as_many_as_github_shows() -> None:
    record = record_of("thousand")
    line = next(check for check in record.gate.checks if check.result is Decision.FAIL)
    gate = record.gate.model_copy(update={"checks": (line,) * 50})
    many = record.model_copy(update={"gate": gate})
    text = RENDERERS.build("github").render(many, Path("nowhere"))
    assert text.count("::error ") == 9
