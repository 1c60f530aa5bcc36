"""`clipguard scan`, end to end on the bundled model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clipguard.cli.app import main
from clipguard.record import AuditRecord
from clipguard.record.schema import read_record

pytest_plugins = ["nano_models"]

BRIEF = ("--purify", "never", "--export", "none")


def files_in(folder: Path) -> dict[str, bytes]:
    """Everything in a report folder but the two files that hold times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("audit.json", "report.html")
    }


def timeless(folder: Path) -> str:
    record = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    assert record.pop("times")["seconds"]
    return json.dumps(record)


def named_in(record: AuditRecord) -> set[str]:
    """Every file that a record speaks of."""
    triggers = [c.trigger for d in record.detectors for c in d.candidates]
    names = [name for t in triggers for name in (t.file, t.picture)]
    names += [name for t in triggers for e in t.examples for name in (e.clean, e.triggered)]
    made = record.purification
    names += [made.head, made.repaired] if made else []
    names += [record.export.file] if record.export and record.export.kept else []
    return {name for name in names if name}


def test_the_report_folder_holds_what_the_record_names_and_nothing_else(scanned: Path):
    record = read_record(scanned / "audit.json")
    assert record.complete
    repaired = {"head.safetensors", "repaired.safetensors", "purified.onnx"}
    assert repaired | {"triggers/1.png"} < named_in(record)
    assert set(files_in(scanned)) == named_in(record)
    page = (scanned / "report.html").read_text(encoding="utf-8")
    assert record.checkpoint.sha256 in page


def test_the_record_names_nothing_of_this_machine(scanned: Path, nano: Path):
    text = (scanned / "audit.json").read_text(encoding="utf-8")
    assert str(nano.parent) not in text
    assert str(scanned) not in text
    command = json.loads(text)["command"]
    assert command == ("clipguard scan --profile standard --purify always nano.pt")


@pytest.mark.usefixtures("tiny")
def test_one_seed_gives_the_same_bytes_apart_from_times(scanned: Path, nano: Path, tmp_path: Path):
    command = ["scan", str(nano), "-o", str(tmp_path), "--purify", "always", "--quiet"]
    assert main([*command, "--purifier", "realign+cbpt"]) == 3
    assert timeless(tmp_path) == timeless(scanned)
    assert files_in(tmp_path) == files_in(scanned)


@pytest.mark.usefixtures("tiny")
def test_formats_go_where_they_are_told_and_stdout_holds_nothing_else(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, sarif = tmp_path / "out", tmp_path / "elsewhere" / "findings.sarif"
    formats = ["-f", f"sarif={sarif}", "-f", "markdown=-", "-f", "text"]
    assert main(["scan", str(nano), "-o", str(out), *BRIEF, *formats]) == 3
    shown = capsys.readouterr()
    assert json.loads(sarif.read_text(encoding="utf-8"))["version"] == "2.1.0"
    assert shown.out.startswith("## ")
    assert (out / "report.txt").read_text(encoding="utf-8").startswith("Cannot tell: nano.pt")
    assert not (out / "report.sarif").exists()
    assert "detect ..." in shown.err
    assert shown.err.endswith(f"report: {out / 'report.html'}\n")


@pytest.mark.parametrize("policy", ["default", "strict", "research"])
def test_gate_decides_from_the_record_as_scan_did_and_without_a_null_band_nothing_passes(
    policy: str, scanned: Path, capsys: pytest.CaptureFixture[str]
):
    record = read_record(scanned / "audit.json")
    assert record.calibration.kind == "none"
    assert "clipguard calibrate" in record.calibration.reason
    code = main(["gate", str(scanned / "audit.json"), "--policy", policy])
    shown = capsys.readouterr().out
    assert code != 0
    if policy == "default":
        assert code == record.gate.exit_code == 3
        assert "clipguard calibrate" in " ".join(shown.split())


@pytest.mark.usefixtures("tiny")
def test_a_reference_is_compared_and_named_in_record_and_reports(
    nano: Path, clean_models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["--reference", str(nano), "-f", "markdown=-", "-f", "text=-", *BRIEF]
    assert main(["scan", str(clean_models[1]), "-o", str(tmp_path), *options]) == 3
    record = read_record(tmp_path / "audit.json")
    known = record.reference
    assert (known.name, known.changed, known.image_changed) == ("nano.pt", 1, 0)
    assert "--reference nano.pt" in record.command
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    markdown, _, text = capsys.readouterr().out.partition("\nCannot tell: ")
    for shown in (page, markdown.replace("\\", ""), text):
        assert "The reference" in shown
        assert "nano.pt" in shown
        assert known.sha256 in shown


@pytest.mark.usefixtures("tiny")
def test_another_seed_searches_anew_replaces_the_earlier_files_and_leaves_others_alone(
    scanned: Path, nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    shutil.copytree(scanned, out)
    (out / "notes.txt").write_text("mine")
    assert main(["scan", str(nano), "-o", str(out), *BRIEF, "--seed", "1", "--quiet"]) == 3
    shown = capsys.readouterr()
    assert (shown.out.count("\n"), shown.err) == (1, ""), "quiet is one line"
    files, first = files_in(out), files_in(scanned)["triggers/1.safetensors"]
    assert set(files) == named_in(read_record(out / "audit.json")) | {"notes.txt"}
    assert not (out / "purified.onnx").exists()
    assert files["triggers/1.safetensors"] != first


def test_models_of_one_name_get_folders_of_their_own(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pt").write_text("text")
    models = [str(tmp_path / name / "model.pt") for name in ("a", "b")]
    for folder in ("1-model.pt", "2-model.pt"):
        (tmp_path / "out" / folder).mkdir(parents=True)
        (tmp_path / "out" / folder / "report.html").write_text("<title>clipguard</title>")
    one = tmp_path / "all.json"
    command = ["scan", *models, "-o", str(tmp_path / "out"), "--quiet", "-f", f"json={one}"]
    assert main([*command, "--sarif-root", str(tmp_path)]) == 4
    both = json.loads(one.read_text())
    assert [record["location"] for record in both] == ["a/model.pt", "b/model.pt"]
    for folder in ("1-model.pt", "2-model.pt"):
        page = (tmp_path / "out" / folder / "report.html").read_text()
        assert page != "<title>clipguard</title>"
