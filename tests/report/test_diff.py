"""What changed between two records."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import failing, judged, passing, rate, unjudged

from clipguard.cli.app import main
from clipguard.record import AuditRecord
from clipguard.record.schema import dumps
from clipguard.report.diff import changes


def told(old: AuditRecord, new: AuditRecord) -> dict[str, tuple[str, str, str]]:
    return {row.what: (row.old, row.new, row.note) for row in changes(old, new)}


def test_a_record_does_not_differ_from_itself_at_another_time():
    later = passing().times.model_copy(update={"created": "2027-01-01T00:00:00Z"})
    assert changes(passing(), passing().model_copy(update={"times": later})) == []


def test_decision_findings_and_lines_are_told():
    found = told(passing(), failing())
    assert found["decision"] == ("Pass (exit code 0)", "Fail (exit code 1)", "")
    new = "trigger_inversion: patch trigger for 'hot air balloon'"
    assert found[new][0::2] == ("none", "new")
    gone = "trigger_inversion: additive trigger for 'teapot'"
    assert found[gone][1:] == ("none", "gone")
    before, after, _ = found["backdoor.max_score"]
    assert (before[:4], after[:4]) == ("pass", "fail")
    assert "sha256 of the model" not in found


@pytest.mark.parametrize(
    ("accuracy", "note"), [(0.94, "the intervals overlap"), (0.5, "beyond the intervals")]
)
def test_another_model_and_its_accuracy_are_told(accuracy: float, note: str):
    record = unjudged()
    probe = record.probe.model_copy(update={"clean_accuracy": rate(accuracy)})
    known = record.checkpoint.model_copy(update={"sha256": "ab" * 32})
    other = judged(record.model_copy(update={"probe": probe, "checkpoint": known}))
    found = told(judged(record), other)
    assert found["sha256 of the model"][:2] == ("5f" * 32, "ab" * 32)
    assert found["clean accuracy"][2] == note


def test_the_exit_code_says_so_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(dumps(passing()), encoding="ascii")
    new.write_text(dumps(failing()), encoding="ascii")
    assert main(["report", "diff", str(old), str(new)]) == 0
    assert capsys.readouterr().out.startswith("decision\n  - Pass")
    assert main(["report", "diff", str(old), str(new), "--exit-code"]) == 1
    assert main(["report", "diff", str(old), str(old), "--exit-code"]) == 0
