"""Changed inputs for every reader of outside bytes: they may be refused, never crash or hang."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from processes import ROOT, run_python


def fuzz(folder: Path, *options: object) -> str:
    keep = ("--keep", folder / "failed")
    return run_python(ROOT / "tools" / "fuzz.py", *options, *keep, code=0).stdout


def test_every_reader_explains_itself_or_ends(tmp_path: Path):
    assert "seed 7: 600 cases, 0 failures" in fuzz(tmp_path, "--cases", 50, "--seed", 7)


@pytest.mark.slow
def test_half_a_minute_of_new_inputs(tmp_path: Path):
    seed = random.SystemRandom().randrange(2**31)  # printed with what fails, to try it again
    assert ", 0 failures" in fuzz(tmp_path, "--seconds", 30, "--seed", seed)


@pytest.mark.slow
def test_inputs_chosen_by_the_code_they_reach(tmp_path: Path):
    pytest.importorskip("atheris", reason="is no dependency")
    options = ("--guided", "--seconds", 30, "--cases", 20_000, "--seed", 1)
    for target in ("file", "safetensors"):
        fuzz(tmp_path, target, *options)
