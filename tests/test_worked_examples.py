"""The examples of CONTRIBUTING.md, word for word, work in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from processes import ROOT, run_python
from samples import passing

from clipguard.record.schema import dumps

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^`([^`\n]+)`:\n\n```(python|diff)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
METHODS = {
    "lab.attacks": "frame",
    "search.families": "tint",
    "purify.methods": "free",
    "report.formats": "badge",
}

FOLLOW = f"""
import sys

sys.modules["torch"] = None  # a rendering needs none
from clipguard.cli.app import main

assert main(["report", "audit.json", "-f", "badge"]) == 0
del sys.modules["torch"]

import pytest
from clipguard.registry import MethodFolder

for folder, name in {METHODS}.items():
    assert name in MethodFolder("clipguard." + folder, folder).names()
sys.exit(pytest.main(["-q", "-W", "error", "tests"]))
"""


def edited(text: str, change: str) -> str:
    """`text` with a diff of whole lines applied, which must fit one place of it."""
    lines = change.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if not line.startswith("+"))
    new = "".join(line[1:] for line in lines if not line.startswith("-"))
    assert text.count(old) == 1, f"no one place for this change:\n{change}"
    return text.replace(old, new)


def write_examples(copy: Path) -> None:
    """Everything that the page shows, in a copy of package and policies."""
    shutil.copytree(ROOT / "clipguard", copy / "clipguard", ignore=lambda *_: {"assets"})
    (copy / "clipguard" / "assets").symlink_to(ROOT / "clipguard" / "assets")
    shutil.copytree(ROOT / "policies", copy / "policies")
    for place, kind, text in SHOWN:
        if kind == "python":
            file = copy / place
            assert not file.exists()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        else:
            for file in copy.glob(place):
                file.write_text(edited(file.read_text("utf-8"), text), encoding="utf-8")


def test_each_example_of_the_page_is_whole_and_its_test_passes(tmp_path: Path):
    write_examples(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "audit.json").write_text(dumps(passing()), encoding="utf-8")
    run_python("-c", FOLLOW, code=0, cwd=tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT / 'tests'}")
    tests = [place for place, _, _ in SHOWN if place.startswith("tests/")]
    assert len(tests) == 7
    assert (tmp_path / "report.badge.json").exists()
