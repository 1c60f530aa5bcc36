"""The process that opens a model file: what it gives, what it may not, and how it may end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import run_python

from clipguard.checkpoint import sandbox
from clipguard.checkpoint.reading import read_weights
from clipguard.checkpoint.sandbox import Guard, bubblewrap
from clipguard.errors import BudgetSpentError, RefusedError, UsageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the process needs limits")
Acting = Callable[[str], None]
shut_in = pytest.mark.skipif(not bubblewrap(), reason="no bubblewrap that works here")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(4)}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> Acting:
    """Call it with lines of Python, which the process runs in place of reading the file."""
    start, *flags, code = sandbox._python()

    def act(lines: str) -> None:
        body = "\n".join(f"    {line}" for line in lines.splitlines())
        before, main = code.rsplit("; ", 1)
        more = f"{before}\nimport clipguard.checkpoint.child as child\ndef act(path):\n{body}\n"
        words = [start, *flags, f"{more}child.raw_weights = act\n{main}"]
        monkeypatch.setattr(sandbox, "_python", lambda: words)

    return act


@pytest.mark.parametrize("mode", ["auto", "process", "none"])
def test_every_way_gives_the_same_tensors_and_says_which_it_was(mode: str, model: Path):
    found = read_weights(model, Guard(mode))
    wanted = {"auto": "bubblewrap" if bubblewrap() else "process"}.get(mode, mode)
    assert (found.sandbox, found.tensors.keys()) == (wanted, {"a", "b"})
    assert torch.equal(found.tensors["a"], torch.arange(6.0).reshape(2, 3).T)
    assert (found.inspection.container, found.inspection.weights_file) == ("zip", model)


def test_no_other_process_opens_the_file(model: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        pytest.fail("the file was opened here")

    monkeypatch.setattr("clipguard.checkpoint.source.opened", stop)
    monkeypatch.setattr("clipguard.checkpoint.inspection.opened", stop)
    assert len(read_weights(model).tensors) == 2


def test_a_machine_without_bubblewrap_or_limits_still_reads(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: ())
    assert read_weights(model).sandbox == "process"
    monkeypatch.setattr(sys, "executable", "")
    assert read_weights(model).sandbox == "none"


def test_it_starts_without_torch_and_open_clip_from_any_folder(tmp_path: Path):
    code = """
import sys
from clipguard.checkpoint import sandbox
print(*sandbox._python()[:-1], sep="\\n")
import clipguard.checkpoint.child
heavy = {"torch", "open_clip", "numpy", "pydantic", "rich", "typer"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    run_python("-c", code, code=0, cwd=tmp_path)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("x = [bytearray(2**28) for _ in range(100)]", "MB"),
        ("while True: pass", "processor"),
        ("import time; time.sleep(60)", "longer"),
    ],
)
@pytest.mark.parametrize("mode", [pytest.param("auto", marks=shut_in), "process"])
def test_whoever_reads_and_dies_or_comes_to_a_limit_makes_a_refusal(
    mode: str, lines: str, says: str, model: Path, acting: Acting, monkeypatch, one_line
):
    monkeypatch.setattr(sandbox, "CPU_S", 1)
    monkeypatch.setattr(sandbox, "WALL_S", 3)
    acting(lines)
    with one_line(RefusedError, rf"^model\.pt: CG104 .*{says}"):
        read_weights(model, Guard(mode))


@pytest.mark.parametrize(
    "lines",
    [
        "open(path.parent / 'new', 'w').write('x')",
        "import os; path.parent.joinpath('x').symlink_to('y'); os.fork()",
        "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
        "import os; os.kill(PARENT, 0)",
    ],
)
@shut_in
def test_nothing_can_be_written_reached_or_seen_from_inside(
    lines: str, model: Path, acting: Acting
):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        acting(lines.replace("PORT", port).replace("PARENT", str(os.getpid())))
        with pytest.raises(RuntimeError, match=r"Error"):
            read_weights(model)
    assert [path.name for path in model.parent.iterdir()] == ["model.pt"]


def test_limits_alone_keep_it_from_writing(model: Path, acting: Acting):
    acting("with open(path.parent / 'new', 'w') as file: file.write('x')")
    with pytest.raises(RuntimeError, match="File too large"):
        read_weights(model, Guard("process"))
    assert (model.parent / "new").read_bytes() == b""


def test_a_spent_budget_ends_the_reading_and_is_no_refusal(model: Path, acting: Acting):
    acting("import time; time.sleep(60)")
    begun = time.monotonic()
    with pytest.raises(BudgetSpentError):
        read_weights(model, Guard(deadline=begun + 0.5))
    assert time.monotonic() - begun < 5


def test_what_it_sends_is_held_to_the_format(model: Path, acting: Acting):
    acting(
        "import json, sys\n"
        "from clipguard.checkpoint.inspection import inspect_file\n"
        "told = {**vars(inspect_file(path)), 'weights_file': str(path)}\n"
        "child._say({'inspection': told, 'form': '', 'notes': [], 'size': 2**40})\n"
        "sys.stdout.buffer.write(child.safetensors_header((child.RawTensor('a', 'int8', (8,)),)))\n"
        "sys.stdout.flush()"
    )
    with pytest.raises(RefusedError, match="CG103"):
        read_weights(model)


def test_errors_of_the_reader_come_through_as_they_are(tmp_path: Path, model: Path, one_line):
    with pytest.raises(UsageError, match="no file"):
        read_weights(tmp_path / "nothing.pt")
    model.write_bytes(model.read_bytes()[:-1])
    with one_line(RefusedError, r"^model\.pt: CG103"):
        read_weights(model)


def test_a_file_that_may_not_be_read_is_a_usage_error(model: Path, acting: Acting, one_line):
    acting("raise PermissionError(13, 'Permission denied')")
    with one_line(UsageError, r"model\.pt: Permission denied"):
        read_weights(model)


@pytest.mark.parametrize("mode", [pytest.param("auto", marks=shut_in), "process"])
def test_an_interrupt_ends_it_at_once(mode: str, model: Path, acting: Acting):
    acting("import time; time.sleep(60)")
    begun = time.monotonic()
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        read_weights(model, Guard(mode))
    assert time.monotonic() - begun < 5
