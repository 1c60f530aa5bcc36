"""`clipguard demo`: plants, scans both models, and is honest about what came out."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipguard.cli.app import main
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


@pytest.mark.slow
def test_the_poisoned_model_fails_and_its_clean_twin_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["demo", "-o", str(tmp_path), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("poisoned   FAIL  target 'banana'")
    assert "purified: ASR" in out
    assert "\nclean twin PASS\n" in out
