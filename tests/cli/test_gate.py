import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from processes import PIPED, run_python
from samples import RECORDS, clean_detector, unjudged

from clipguard.cli.app import main
from clipguard.policy.judge import load_policy, shipped_policies
from clipguard.record import DetectorRecord
from clipguard.record.schema import dumps, read_record
from clipguard.resources import shipped


def written(folder: Path, *kinds: str) -> list[str]:
    for kind in kinds:
        (folder / f"{kind}.json").write_text(dumps(RECORDS[kind]()), encoding="ascii")
    return [str(folder / f"{kind}.json") for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (["unjudged"], 0),
        (["pass", "inconclusive"], 3),
        (["inconclusive", "fail", "pass"], 1),
        (["fail", "refused"], 4),
    ],
)
def test_the_exit_code_is_the_worst_of_all_records(
    tmp_path: Path, kinds: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", *written(tmp_path, *kinds)]) == code
    shown = capsys.readouterr().out
    assert shown.count("(exit code ") == len(kinds)


def test_a_record_that_cannot_be_read_hides_no_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.json").write_text("{")
    assert main(["gate", str(tmp_path / "broken.json"), *written(tmp_path, "fail")]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith("Fail: model.pt (exit code 1")
    assert shown.err.count("error: ") == 1


def test_the_first_screen_is_printed_unless_more_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    (record,) = written(tmp_path, "fail")
    shown = []
    for more in ((), ("-v",), ("-f", "text")):
        assert main(["gate", record, *more]) == 1
        shown.append(capsys.readouterr().out)
    brief, *whole = shown
    assert whole[0] == whole[1]
    assert whole[0].startswith(brief)
    assert "Policy checks" in whole[0]
    assert "Policy checks" not in brief
    assert "--verbose" in refused(2, "gate", record, "-v", "-f", "json")


def test_the_policy_is_named_with_its_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["gate", *written(tmp_path, "pass")])
    shown = capsys.readouterr().out
    assert "policy default" in shown
    assert load_policy("default").sha256 in shown


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from clipguard.cli.app import main
codes = [main(["gate", sys.argv[1], "--policy", policy]) for policy in sys.argv[2:]]
print(codes)
"""


def test_one_moved_number_of_the_policy_decides_otherwise_without_torch(tmp_path: Path) -> None:
    word = DetectorRecord(name="text_tokens", evidence="e", statistic=2.0, word_share=0.95)
    record, other = tmp_path / "audit.json", tmp_path / "other.yaml"
    record.write_text(dumps(unjudged(detectors=(clean_detector(), word))), encoding="ascii")
    text = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
    other.write_text(text.replace("max_word_pull: 3.0", "max_word_pull: 1.9"), encoding="utf-8")
    done = run_python("-c", WITHOUT_TORCH, record, "default", other, code=0)
    assert done.stdout.splitlines()[-1] == "[0, 1]", done.stderr


def test_an_old_decision_in_the_record_is_not_believed(tmp_path: Path) -> None:
    failing = RECORDS["fail"]()
    excused = failing.model_copy(update={"gate": RECORDS["pass"]().gate})
    (tmp_path / "a.json").write_text(dumps(excused), encoding="ascii")
    assert main(["gate", str(tmp_path / "a.json")]) == 1


def test_the_record_is_left_as_it_is(tmp_path: Path) -> None:
    (audit,) = written(tmp_path, "unjudged")
    before = Path(audit).read_bytes()
    main(["gate", audit])
    assert Path(audit).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.json"], "cannot read nothing.json"),
        (["AUDIT", "--policy", "defualt"], "did you mean 'default'"),
        ([], "Missing argument"),
    ],
)
def test_a_wrong_command_is_a_usage_error(
    tmp_path: Path, arguments: list[str], message: str, refused: Callable[..., str]
) -> None:
    (audit,) = written(tmp_path, "pass")
    assert message in refused(2, "gate", *(audit if a == "AUDIT" else a for a in arguments))


def test_a_folder_stands_for_the_records_in_it_and_an_empty_one_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    for kind in ("pass", "fail"):
        (tmp_path / "runs" / kind).mkdir(parents=True)
        (tmp_path / "runs" / kind / "audit.json").write_text(dumps(RECORDS[kind]()), "ascii")
        (tmp_path / "runs" / kind / "other.json").write_text("{")
    assert main(["gate", str(tmp_path / "runs")]) == 1
    assert capsys.readouterr().out.count("(exit code ") == 2
    (tmp_path / "none").mkdir()
    assert "no audit.json in" in refused(2, "gate", tmp_path / "none")


def about(folder: Path, data: bytes, **changes: str) -> str:
    """The passing record of a model of these bytes, or of an exported file of theirs."""
    record, digest = RECORDS["pass"](), hashlib.sha256(data).hexdigest()
    part = record.export if "export" in changes else record.checkpoint
    changed = part.model_copy(update={"sha256": digest})
    name = "export" if "export" in changes else "checkpoint"
    (folder / "about.json").write_text(dumps(record.model_copy(update={name: changed})), "ascii")
    return str(folder / "about.json")


def gate_of(folder: Path, *arguments: object) -> tuple[int, bool | None]:
    """Exit code, and whether the record was verified."""
    made = folder / "decided.json"
    code = main(["gate", *map(str, arguments), "-f", f"json={made}"])
    return code, read_record(made).gate.verified


@pytest.mark.parametrize("part", ["checkpoint", "export"])
def test_a_record_is_held_against_the_very_file_that_it_is_about(tmp_path: Path, part: str) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "other.pt").write_bytes(b"other weights")
    record = about(tmp_path, b"weights", **{part: ""})
    assert gate_of(tmp_path, record) == (0, False)
    assert gate_of(tmp_path, record, "--model", tmp_path / "model.pt") == (0, True)
    assert main(["gate", record, "--model", str(tmp_path / "other.pt")]) == 1
    both = ("--model", tmp_path / "model.pt", "--model", tmp_path / "other.pt")
    assert gate_of(tmp_path, record, *both) == (3, True), "no record is about the second file"


def test_a_model_of_several_files_has_the_digest_of_its_record(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    for name in ("1.safetensors", "2.safetensors"):
        (folder / name).write_bytes(name.encode())
    lines = "".join(
        f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n"
        for name in ("1.safetensors", "2.safetensors")
    )
    assert gate_of(tmp_path, about(tmp_path, lines.encode()), "--model", folder) == (0, True)


def test_a_record_that_came_alone_is_said_to_be_unverified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["gate", *written(tmp_path, "pass")])
    assert "Not verified" in capsys.readouterr().out


def test_formats_are_one_document_about_all_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    records = written(tmp_path, "pass", "fail")
    assert main(["gate", *records, "-f", f"sarif={tmp_path / 'all.sarif'}", "-f", "json"]) == 1
    assert [one["gate"]["exit_code"] for one in json.loads(capsys.readouterr().out)] == [0, 1]
    assert len(json.loads((tmp_path / "all.sarif").read_text())["runs"]) == 2
    assert "one document for each" in refused(2, "gate", *records, "-f", "html=a.html")


def test_a_waiver_that_is_of_no_use_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = "{check: backdoor.max_gap, sha256: %s, reason: r, owner: o, expires: %s}"
    last = (datetime.now(timezone.utc) + timedelta(days=9)).date()
    file = tmp_path / "waivers.yaml"
    file.write_text(f"version: 1\nwaivers:\n  - {row % ('5f' * 32, last)}\n")
    assert main(["gate", *written(tmp_path, "fail"), "--waivers", str(file)]) == 1
    shown = capsys.readouterr()
    assert "waiver 1" in shown.err
    assert "unused" in shown.out


def test_a_closed_pipe_changes_no_exit_code(tmp_path: Path) -> None:
    failing, passing = written(tmp_path, "fail", "pass")
    rendered = f"report|{failing}|-f|text=-|-f|html={tmp_path / 'report.html'}"
    commands = (f"gate|{failing}|{passing}", rendered, "policy|show|default")
    done = run_python("-c", PIPED, *commands, code=0)
    out = [line for line in done.stdout.splitlines() if not line.startswith("1 b''")]
    assert done.stdout.startswith("1 b''")
    assert [line[:1] for line in out] == ["0", "0"]
    assert (tmp_path / "report.html").exists()


def test_a_policy_is_shown_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    for name in shipped_policies():
        assert main(["policy", "show", name]) == 0
        text = (shipped("policies") / f"{name}.yaml").read_text(encoding="utf-8")
        assert capsys.readouterr().out == text


def test_validate_names_policy_and_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shipped("policies") / "strict.yaml"
    assert main(["policy", "validate", str(path)]) == 0
    assert capsys.readouterr().out == f"valid: {path} (strict, {load_policy('strict').sha256})\n"


def test_validate_refuses_a_typo_in_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "mine.yaml").write_text("version: 2\nnmae: x\n")
    line = refused(2, "policy", "validate", tmp_path / "mine.yaml")
    assert line.startswith("error: mine.yaml line 2: ")
    assert "'name'" in line
