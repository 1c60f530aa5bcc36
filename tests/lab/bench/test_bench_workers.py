"""Processes of a benchmark: they do everything, and leave with the one that started them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from clipguard.errors import ClipguardError
from clipguard.lab.bench.workers import each_victim

SLEEPERS = """
import os
import sys
import time
from pathlib import Path
from filelock import FileLock
from clipguard.lab.bench.workers import each_victim

def sleep(path):
    with FileLock(path):
        Path(path + ".held").touch()
        os.write(1, b"held\\n")
        time.sleep(120)

if __name__ == "__main__":
    list(each_victim(sleep, sys.argv[1:], len(sys.argv) - 1))
"""
GONE_S = 20.0


def test_everything_is_done_in_this_process_or_in_others(tmp_path: Path):
    for jobs in (1, 2):
        paths = [tmp_path / f"{jobs}-{number}" for number in range(3)]
        assert list(each_victim(Path.mkdir, paths, jobs)) == [None] * 3
        assert all(path.is_dir() for path in paths)


def test_a_process_that_is_killed_is_told_in_one_line():
    with pytest.raises(ClipguardError, match="was killed"):
        list(each_victim(os._exit, [1, 1], 2))


def test_processes_end_with_the_one_that_started_them(tmp_path: Path):
    script, locks = tmp_path / "sleepers.py", [tmp_path / "0.lock", tmp_path / "1.lock"]
    script.write_text(SLEEPERS)
    command = [sys.executable, str(script), *map(str, locks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        for _ in locks:
            assert parent.stdout.readline() == "held\n"
        with pytest.raises(Timeout):
            FileLock(locks[0]).acquire(timeout=0)
        parent.kill()
        for lock in locks:  # the system lets go of a lock when its process has ended
            FileLock(lock).acquire(timeout=GONE_S).lock.release()
