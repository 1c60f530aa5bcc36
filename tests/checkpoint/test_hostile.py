"""Hostile checkpoints: each is refused by its own rule in one line, or it is read as it was."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import hostile_archives
import hostile_calls
import hostile_layouts
import hostile_pickles
import hostile_safetensors
import hostile_tensors
import pytest
import torch
from hostile import HARMLESS, MARKER, WEIGHTS, Case
from reading import layout_and_tensors

from clipguard.errors import RefusedError

KINDS = (
    hostile_archives,
    hostile_calls,
    hostile_layouts,
    hostile_pickles,
    hostile_safetensors,
    hostile_tensors,
)
CASES = [case for kind in KINDS for case in kind.cases()]
MAX_SECONDS = 10
MORE_MEMORY = 2**29
"""Bytes that a scan may take for a hostile file, above what its own imports take."""
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("used", used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(code)
"""
"""Runs a command and measures it; what the tests themselves hold would count if they did it."""


def test_there_are_many_and_each_has_a_name():
    assert len({case.name for case in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_by_its_rule_or_read_as_it_was(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    if case.rule == HARMLESS:
        found = layout_and_tensors(case.data)[1]
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[key], WEIGHTS[key]) for key in WEIGHTS)
    else:
        with pytest.raises(RefusedError) as caught:
            layout_and_tensors(case.data)
        line = str(caught.value)
        assert line.startswith(f"{case.rule} "), line
        assert line.isprintable()
        assert len(line) < 600
    assert time.process_time() - start < MAX_SECONDS
    assert [*tmp_path.iterdir()] == []


def sample() -> list[Case]:
    """The refused ones that go for memory or time, and some of every kind."""
    refused = [case for case in CASES if case.rule != HARMLESS]
    heavy = [case for case in refused if case.is_heavy]
    return heavy + [case for case in refused if not case.is_heavy][::31]


def scan(content: list[bytes], folder: Path) -> tuple[int, int, float, str]:
    """Exit code, peak of memory in bytes, seconds of work, and output of a scan of these files."""
    folder.mkdir()
    names = [f"model{number}.pt" for number in range(len(content))]
    for name, data in zip(names, content, strict=True):
        (folder / name).write_bytes(data)
    command = [sys.executable, "-m", "clipguard", "scan", *names, "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], cwd=folder, capture_output=True, text=True
    )
    said, _, used = done.stdout.rpartition("used ")
    peak, seconds = used.split()
    return done.returncode, 1024 * int(peak), float(seconds), said + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_a_scan_of_them_ends_with_a_line_for_each(tmp_path: Path):
    cases = sample()
    assert len(cases) >= 30
    _, imports, _, _ = scan([b"no checkpoint"], tmp_path / "none")
    for begin in range(0, len(cases), 16):
        some = cases[begin : begin + 16]
        folder = tmp_path / str(begin)
        code, memory, seconds, said = scan([case.data for case in some], folder)
        assert (code, "Traceback" in said) == (4, False), said
        assert memory < imports + MORE_MEMORY, [case.name for case in some]
        assert seconds < MAX_SECONDS * len(some)
        words = " ".join(said.split())
        for number, case in enumerate(some):
            assert f"model{number}.pt: {case.rule} " in words, (case.name, said)
        assert not (folder / MARKER).exists()
