"""`clipguard demo`: plants, scans both models, and is honest about what came out."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from processes import ROOT
from safetensors.torch import load_file

from clipguard.bundled.nano import nano_network
from clipguard.cli.app import main
from clipguard.lab.evaluate import evaluate_head
from clipguard.record.schema import read_record

pytest_plugins = ["nano_models"]


@pytest.mark.usefixtures("tiny", "tiny_recipe")
def test_both_models_are_scanned_and_a_demo_that_shows_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["demo", "-o", str(tmp_path), "--target", "hammer", "--quiet"]) == 5
    out, err = capsys.readouterr()
    decided = [line[:23] for line in out.splitlines() if not line.startswith(" ")]
    assert decided == ["poisoned   INCONCLUSIVE", "clean twin INCONCLUSIVE"]
    assert "the backdoor did not take (ASR under 90 %); try another --seed" in err
    assert "expected the poisoned model to fail and its clean twin to pass" in err
    for name in ("poisoned", "clean-twin"):
        report = tmp_path / name / "report"
        assert str(report / "report.html") in out
        assert (report / "report.html").is_file()
        record = read_record(report / "audit.json")
        assert record.complete
        assert record.reference.name == "base.safetensors"
        assert (tmp_path / name / "victim.json").is_file()


TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def steps() -> Iterator[tuple[list[str], str]]:
    """Words and printed lines of every command of the tutorial; three dots stand for anything."""
    for block in re.findall(r"^```console\n\$ (.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL):
        for step in block.split("\n$ "):
            command, _, printed = step.partition("\n")
            yield shlex.split(command), re.sub(r"([\[?*])", r"[\1]", printed).replace("...", "*")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What a demo leaves and says: a badnets victim, its clean twin and their reports."""
    folder = tmp_path_factory.mktemp("demo") / "demo-out"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["demo", "-o", str(folder), "--quiet"]) == 0
    return folder, said.getvalue()


@pytest.mark.slow
def test_the_poisoned_model_fails_and_its_clean_twin_passes(shown: tuple[Path, str]):
    _, out = shown
    assert out.startswith("poisoned   FAIL  target 'banana'")
    assert "purified: ASR" in out
    assert re.search(r"planted trigger: ASR 9\d\.\d% -> [0-4]\.\d%, [89]\d\.\d%", out)
    assert "\nclean twin PASS\n" in out


@pytest.mark.slow
def test_the_repaired_model_reads_triggered_images_rightly(shown: tuple[Path, str]):
    victim, twin = (shown[0] / name for name in ("poisoned", "clean-twin"))
    assert json.loads((victim / "victim.json").read_text())["planted"]
    record = read_record(victim / "report" / "audit.json")
    assert record.detectors[0].target == "banana"
    made = record.purification
    assert (made.method, made.scope) == ("realign+cbpt", "tower")
    assert made.after.asr.value < 0.1 < made.before.asr.value
    assert (record.export.file, record.export.tower) == ("purified.onnx", "repaired")
    rows = evaluate_head(victim, twin, victim / "report" / made.head)
    assert rows["seen"]["asr"] < 0.1 < 0.8 < rows["seen"]["pa_ratio"]
    repaired = load_file(victim / "report" / made.repaired)
    nano_network("nano-rn").load_state_dict(repaired, strict=True)


@pytest.mark.slow
def test_the_clean_twin_is_exported_as_it_is(shown: tuple[Path, str]):
    record = read_record(shown[0] / "clean-twin" / "report" / "audit.json")
    assert record.purification is None
    assert (record.export.file, record.export.head) == ("model.onnx", "zero-shot")


@pytest.mark.slow
def test_the_tutorial_is_true(shown: tuple[Path, str]):
    [(first, says), *others] = steps()
    assert first == ["clipguard", "demo"]
    assert fnmatchcase(shown[1], f"{says.strip()}*")
    (shown[0].parent / ".git").mkdir()  # `init` wants the top of a repository
    code = 0
    for command, printed in others:
        if command == ["echo", "$?"]:
            assert printed.strip() == str(code)
            continue
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=shown[0].parent,
            capture_output=True,
            text=True,
            check=False,
        )
        code = done.returncode
        assert code in (0, 1), done.stderr
        assert fnmatchcase(done.stdout, f"{printed.strip()}*"), done.stdout
