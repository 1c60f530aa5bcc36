import json
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run_python
from samples import failing, write_pictures

from clipguard.cli.app import main
from clipguard.errors import PASS, USAGE
from clipguard.record import AuditRecord
from clipguard.record.schema import dumps, json_schema
from clipguard.report.formats import RENDERERS
from clipguard.resources import shipped

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from clipguard.cli.app import main
codes = [main(line.split("|")) for line in sys.argv[1:]]
heavy = {"numpy", "onnx", "onnxruntime", "open_clip", "scipy", "sklearn", "torchvision"}
heavy = sorted(heavy & set(sys.modules))
print(codes, heavy)
"""


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    write_pictures(tmp_path)
    (tmp_path / "audit.json").write_text(dumps(failing()), encoding="ascii")
    return tmp_path / "audit.json"


def test_the_default_is_html_beside_the_record(
    audit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(audit)]) == PASS
    assert "data:image/png" in (audit.parent / "report.html").read_text(encoding="utf-8")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"wrote {audit.parent / 'report.html'}\n"


def test_formats_go_where_they_are_told(
    audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.md"
    out = tmp_path / "out"
    command = ["report", str(audit), "-f", f"markdown={mine}", "-f", "sarif", "-f", "text=-"]
    assert main([*command, "-o", str(out)]) == PASS
    assert mine.read_text(encoding="utf-8").startswith("## ")
    assert json.loads((out / "report.sarif").read_text())["version"] == "2.1.0"
    assert capsys.readouterr().out.startswith("Fail: model.pt")


def test_a_folder_of_one_record_stands_for_it(
    audit: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(audit.parent)]) == PASS
    assert (audit.parent / "report.html").is_file()
    assert main(["report", "diff", str(audit.parent), str(audit), "--exit-code"]) == PASS
    capsys.readouterr()
    (audit.parent / "other").mkdir()
    (audit.parent / "other" / "audit.json").write_bytes(audit.read_bytes())
    assert "2 records" in refused(USAGE, "report", audit.parent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.json"], "cannot read"),
        (["AUDIT", "-f", "pdf"], "no format named 'pdf'"),
        (["AUDIT", "-o", "AUDIT"], "cannot write"),
        ([], "Missing argument"),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing(
    audit: Path, arguments: list[str], message: str, refused: Callable[..., str]
) -> None:
    before = sorted(audit.parent.iterdir())
    assert message in refused(USAGE, "report", *(audit if a == "AUDIT" else a for a in arguments))
    assert sorted(audit.parent.iterdir()) == before


@pytest.mark.parametrize(
    "words", [[], ["-f", "html=AUDIT/report.html"], ["-f", "sarif", "-f", "html"]]
)
def test_a_page_of_another_tool_is_never_replaced(
    audit: Path, words: list[str], refused: Callable[..., str]
) -> None:
    page = audit.parent / "report.html"
    page.write_text("<title>Test report</title> of clipguard")
    told = [word.replace("AUDIT", str(audit.parent)) for word in words]
    assert "report.html" in refused(USAGE, "report", audit, *told)
    assert page.read_text() == "<title>Test report</title> of clipguard"
    assert not (audit.parent / "report.sarif").exists()
    page.write_text("")
    assert main(["report", str(audit), *told]) == PASS


def test_schema_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == PASS
    assert json.loads(capsys.readouterr().out) == json_schema()
    assert json_schema()["title"] == AuditRecord.__name__


def test_gate_report_and_policy_import_nothing_heavy(audit: Path) -> None:
    """Each command alone, in a process where no torch can be imported."""
    formats = "|".join(f"-f|{name}" for name in RENDERERS.names())
    commands = (
        f"gate|{audit}|--model|{audit}",
        f"report|render|{audit}|{formats}",
        f"report|diff|{audit}|{audit}",
        f"policy|test|{audit}",
        f"policy|validate|{shipped('policies') / 'default.yaml'}",
        "policy|show|strict",
        "policy|explain|backdoor.max_gap",
        f"policy|init|{audit.parent / 'mine.yaml'}",
        "schema",
    )
    done = run_python("-c", WITHOUT_TORCH, *commands, code=0)
    assert done.stdout.splitlines()[-1] == "[1, 0, 0, 0, 0, 0, 0, 0, 0] []", done.stderr
