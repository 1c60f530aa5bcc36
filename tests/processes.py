"""Runs Python as a process of its own: scripts of tools/, the package, a line of code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIPED = """
import subprocess, sys
for command in sys.argv[1:]:
    run = [sys.executable, "-m", "clipguard", *command.split("|")]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        done.stdout.close()  # as `| true` does
        print(done.wait(), done.stderr.read())
"""
"""Runs commands (words apart by `|`) whose output nobody reads, and tells their codes."""


def run_python(
    *command: object, code: int, cwd: Path = ROOT, path: Path | str = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run Python with `command`, which must end with `code`; `path` goes before all else."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done
