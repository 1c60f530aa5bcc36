"""Killed, out of room or memory at any point: a documented code, nothing half, no one left."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_scan import files_in, named_in

from clipguard.checkpoint import sandbox
from clipguard.checkpoint.bubblewrap import works
from clipguard.checkpoint.reading import read_weights
from clipguard.checkpoint.sandbox import Guard, Reader
from clipguard.errors import RefusedError
from clipguard.record.schema import read_record
from clipguard.report.folder import ARTEFACTS

pytest_plugins = ["nano_models"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
POINTS = 8
shut_in = pytest.mark.skipif(not works(), reason="no bubblewrap that works here")
FORKS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import pytest
from nano_models import TINY, use_everywhere
from clipguard.cli.app import main

use_everywhere(pytest.MonkeyPatch(), TINY)
for line in sys.stdin:
    process = os.fork()
    if not process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(json.loads(line)))
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def living(word: str) -> list[str]:
    """Command lines of all processes that hold `word`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


def nobody_is_left(word: str) -> bool:
    until = time.monotonic() + 5
    while living(word) and time.monotonic() < until:
        time.sleep(0.05)
    return living(word) == []


class Forks:
    """Scans in processes that have imported everything already."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS, str(Path(__file__).parents[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def scan(self, *words: object, kill_after: float | None = None) -> int:
        """Exit code of a scan; negative if it was killed."""
        self._process.stdin.write(json.dumps(["scan", *map(str, words)]) + "\n")
        self._process.stdin.flush()
        number = int(self._process.stdout.readline())
        timer = threading.Timer(kill_after or 1e6, os.kill, (number, signal.SIGKILL))
        timer.daemon = True
        timer.start()
        code = int(self._process.stdout.readline())
        timer.cancel()
        return code

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


def check_report(out: Path, old: dict[str, bytes]) -> str:
    """Which report stands in `out`: every one is whole, or says that it is not."""
    hidden = [path.name for path in out.iterdir() if path.name.startswith(".clipguard-")]
    assert len(hidden) <= 2  # what the killed one worked in, for the next to sweep
    if not (out / "audit.json").exists():
        assert [name for name in ARTEFACTS if (out / name).exists()] == []
        return "none"
    record = read_record(out / "audit.json")
    if not record.complete:
        return "marked"
    files = {name for name in files_in(out) if not name.startswith(".")}
    assert files == named_in(record)
    return "old" if files_in(out).items() >= old.items() else "new"


def test_a_scan_that_is_killed_anywhere_leaves_a_whole_report_or_none(
    forks: Forks, scanned: Path, nano: Path, tmp_path: Path
):
    model = shutil.copy(nano, tmp_path / "killed-model.pt")
    words = (model, "--purify", "never", "--export", "none", "--quiet")
    begun = time.monotonic()
    assert forks.scan(*words, "-o", tmp_path / "out") == 3
    whole, chance = time.monotonic() - begun, random.Random(22)
    seen, old = [], files_in(scanned)
    for _ in range(POINTS):
        shutil.copytree(scanned, tmp_path / "out", dirs_exist_ok=True)
        code = forks.scan(*words, "-o", tmp_path / "out", kill_after=chance.uniform(0, whole))
        assert code in (-signal.SIGKILL, 3)
        assert nobody_is_left("killed-model.pt")
        seen.append(check_report(tmp_path / "out", old))
    assert set(seen) <= {"old", "marked", "none", "new"}
    assert forks.scan(*words, "-o", tmp_path / "out") == 3
    assert check_report(tmp_path / "out", old) in ("old", "new")
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("mode", [pytest.param("auto", marks=shut_in), "process"])
def test_a_reader_that_is_killed_anywhere_makes_a_refusal(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, started, readers = tmp_path / "killed-model.pt", sandbox._started, []
    torch.save({f"t{i}": torch.rand(2**20) for i in range(32)}, path)

    def start(*given: Any) -> Reader:
        readers.append(started(*given))
        return readers[-1]

    monkeypatch.setattr(sandbox, "_started", start)
    begun = time.monotonic()
    wanted = read_weights(path, Guard(mode)).tensors
    whole, chance, ends = time.monotonic() - begun, random.Random(22), []
    for _ in range(POINTS):
        timer = threading.Timer(chance.uniform(0, whole), lambda: readers[-1].stop())
        timer.start()
        try:
            found = read_weights(path, Guard(mode)).tensors
            assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
        except RefusedError as error:
            ends.append(str(error))
        timer.cancel()
        assert nobody_is_left("killed-model.pt")
    assert len(ends) > POINTS // 3
    assert all("CG104" in end for end in ends)


def shut(out: Path, *how: object) -> list[str]:
    """How a command line begins for which `out` is a file system of its own."""
    return [*map(str, ("bwrap", "--bind", "/", "/", "--dev", "/dev", *how, out)), sys.executable]


@shut_in
@pytest.mark.parametrize("size", [1, 20_000, 400_000])
def test_a_full_disk_is_a_documented_code_and_leaves_nothing_half(
    size: int, nano: Path, tmp_path: Path
):
    out = tmp_path / "out"
    out.mkdir()
    more = "print(json.dumps(sorted(str(p.relative_to(out)) for p in out.rglob('*'))))"
    code = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import pytest
from nano_models import TINY, use_everywhere
from clipguard.cli.app import main
use_everywhere(pytest.MonkeyPatch(), TINY)
out = Path({str(out)!r})
print(main(["scan", {str(nano)!r}, "-o", str(out), "--purify", "always", "--quiet"]))
{more}
"""
    done = subprocess.run(
        [*shut(out, "--size", size, "--tmpfs"), "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    *_, ended, left = done.stdout.splitlines()
    assert int(ended) in (2, 3, 5), done.stderr
    assert "Traceback" not in done.stderr
    assert set(json.loads(left)) <= {"audit.json", "report.html"}, done.stderr


@shut_in
def test_a_folder_that_cannot_be_written_is_a_usage_error(nano: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    begin = shut(tmp_path / "out", "--ro-bind", tmp_path / "out")
    words = ["-m", "clipguard", "scan", str(nano), "-o", str(tmp_path / "out")]
    done = subprocess.run([*begin, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1


def test_too_little_memory_is_an_error_and_no_verdict(tmp_path: Path):
    torch.save({f"t{i}": torch.zeros(2**24) for i in range(4)}, tmp_path / "killed-model.pt")
    code = f"""
import resource, sys, torch, open_clip
from pathlib import Path
import clipguard.audit.scan
from clipguard.cli.app import main
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**27, now + 2**27))
sys.exit(main(["scan", {str(tmp_path / "killed-model.pt")!r}, "-o", {str(tmp_path / "out")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert not (tmp_path / "out").exists()
    assert nobody_is_left("killed-model.pt")
