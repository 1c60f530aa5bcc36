"""What a killed process left is swept, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipguard.files import mark, sweep, write_atomic

KILLED = """
import os, sys, tempfile
from pathlib import Path
from clipguard.files import mark
Path(tempfile.mkdtemp(prefix=mark(), dir=sys.argv[1]), "inside").write_text("x")
tempfile.mkstemp(prefix=mark(), dir=sys.argv[1])
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.name != "posix", reason="nothing is swept there")
def test_only_what_a_dead_process_left_is_swept(tmp_path: Path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep.txt").write_text("x")
    gone = next(path.name for path in tmp_path.iterdir() if path.is_file())
    (tmp_path / f"{gone}-link").symlink_to(tmp_path / "mine")
    kept = {f"{mark()}own", mark().replace(str(os.getpid()), "1") + "init", ".clipguard-x", "mine"}
    other = gone.replace(gone.split("-")[1], "0" * 8)
    for name in (*kept - {"mine"}, other):
        (tmp_path / name).touch()
    write_atomic(tmp_path / "new.json", "x")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, other, "new.json"}
    assert (tmp_path / "mine" / "keep.txt").exists()
    sweep(tmp_path)
