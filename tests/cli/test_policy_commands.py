"""`policy init`, `explain` and `test`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from samples import RECORDS
from test_gate import written

from clipguard.cli.app import main
from clipguard.policy.explain import keys
from clipguard.policy.judge import load_policy
from clipguard.record.schema import dumps
from clipguard.report.rules import RULES


def test_init_writes_a_valid_policy_named_after_its_file_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
):
    file = tmp_path / "release gate.yaml"
    assert main(["policy", "init", str(file), "--from", "strict"]) == 0
    made, strict = load_policy(file), load_policy("strict")
    assert made.name == "release-gate"
    assert (made.backdoor, made.coverage) == (strict.backdoor, strict.coverage)
    capsys.readouterr()
    before = file.read_bytes()
    assert "there already" in refused(2, "policy", "init", file)
    assert file.read_bytes() == before


def test_every_key_and_rule_is_explained(capsys: pytest.CaptureFixture[str]):
    assert {"backdoor.max_gap", "coverage.min_power", "salt"} <= set(keys())
    for name in (*keys(), *RULES):
        assert main(["policy", "explain", name]) == 0
        assert capsys.readouterr().out.strip()
    main(["policy", "explain", "backdoor.control_asr"])
    shown = capsys.readouterr().out
    assert "upper end" in shown
    assert "nearly all images into one class" in shown, "the comment over its group"
    assert "strict: " in shown


def test_an_unknown_key_is_a_usage_error(refused: Callable[..., str]):
    assert "'backdoor.alpha'" in refused(2, "policy", "explain", "backdoor.alpa")


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        ("pass.json: pass\nfail.json: fail\n", 0),
        ("pass.json: pass\n", 0),
        ("pass.json: fail\n", 1),
        ("other.json: pass\n", 1),
        ("pass.json: passed\n", 2),
        ("[]\n", 2),
    ],
)
def test_records_are_held_against_what_they_must_come_to(tmp_path: Path, expected: str, code: int):
    (tmp_path / "records").mkdir()
    written(tmp_path / "records", "pass", "fail")
    (tmp_path / "expected.yaml").write_text(expected)
    command = ["policy", "test", str(tmp_path / "records")]
    assert main([*command, "--expect", str(tmp_path / "expected.yaml")]) == code


def test_what_is_no_record_in_a_folder_is_passed_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "runs" / "one"
    out.mkdir(parents=True)
    record = written(out, "pass")[0]
    assert main(["gate", record, record, "-f", f"json={out / 'all.json'}"]) == 0
    assert main(["report", record, "-f", "cyclonedx"]) == 0
    (out / "package.json").write_text("{}")
    for command in (["policy", "test"], ["gate", "-f", "github"]):
        capsys.readouterr()
        assert main([*command, str(tmp_path)]) == 0
        assert "all.json" not in capsys.readouterr().out
    Path(record).rename(out / "audit.json")
    written(out, "fail")
    assert main(["gate", str(tmp_path)]) == 0, "where there is an audit.json, only these count"


def test_without_expectations_the_table_shows_what_a_policy_would_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.json").write_text(dumps(RECORDS["pass"]()), encoding="ascii")
    assert main(["policy", "test", str(tmp_path), "--policy", "strict"]) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert row.split()[:3] == ["pass", "inconclusive", "-"]
