from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run_python
from samples import RECORDS, clean_detector, unjudged

from clipguard.cli.app import main
from clipguard.policy.judge import load_policy, shipped_policies
from clipguard.record import DetectorRecord
from clipguard.record.schema import dumps
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
