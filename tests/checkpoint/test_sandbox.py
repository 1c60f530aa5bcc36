"""The process that opens a model file: what it gives, what it may not, and how it may end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_python

from clipguard.checkpoint import bubblewrap, sandbox
from clipguard.checkpoint.bubblewrap import works
from clipguard.checkpoint.guarded import guarded_contents
from clipguard.checkpoint.inspection import sha256_of
from clipguard.checkpoint.reading import read_weights
from clipguard.checkpoint.sandbox import Guard
from clipguard.errors import BudgetSpentError, RefusedError, UsageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the process needs limits")
Acting = Callable[[str], None]
shut_in = pytest.mark.skipif(not works(), reason="no bubblewrap that works here")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(4)}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> Acting:
    """Call it with lines of Python, which the process runs in place of reading the file."""
    usual = bubblewrap.command

    def act(lines: str) -> None:
        def command(*given: Any, **how: Any) -> list[str]:
            *words, code = usual(*given, **how)
            body = "\n".join(f"    {line}" for line in lines.splitlines())
            before, main = code.rsplit("; ", 1)
            more = "import clipguard.checkpoint.child as child"
            more = f"{before}\n{more}\ndef act(source, path):\n{body}\nchild.checked = act\n"
            return [*words, f"{more}child.read_contents = act\n{main}"]

        monkeypatch.setattr(sandbox, "command", command)

    return act


@pytest.mark.parametrize("mode", ["auto", "process", "none"])
def test_every_way_gives_the_same_tensors_and_says_which_it_was(mode: str, model: Path):
    found = read_weights(model, Guard(mode))
    wanted = {"auto": "bubblewrap" if works() else "process"}.get(mode, mode)
    assert (found.sandbox, found.tensors.keys()) == (wanted, {"a", "b"})
    assert torch.equal(found.tensors["a"], torch.arange(6.0).reshape(2, 3).T)
    assert (found.inspection.container, found.inspection.weights_file) == ("zip", model)


def test_no_other_process_parses_the_file(model: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        pytest.fail("the file was parsed here")

    monkeypatch.setattr("clipguard.checkpoint.inspection.read_layout", stop)
    monkeypatch.setattr("clipguard.checkpoint.source.Source.read_at", stop)
    assert len(read_weights(model).tensors) == 2
    assert len(guarded_contents(model).tensors) == 2


def test_a_machine_without_bubblewrap_or_limits_still_reads(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sandbox, "works", lambda: False)
    assert read_weights(model).sandbox == "process"
    monkeypatch.setattr(sys, "executable", "")
    assert read_weights(model).sandbox == "none"


def test_it_starts_without_torch_and_open_clip_from_any_folder(tmp_path: Path):
    code = """
import sys
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
    if says == "longer":
        monkeypatch.setattr(sandbox, "WALL_S", 3)
    acting(lines)
    with one_line(RefusedError, rf"^model\.pt: CG104 .*{says}"):
        read_weights(model, Guard(mode))


@pytest.mark.parametrize(
    "lines",
    [
        "open('FOLDER/new', 'w').write('x')",
        "open('/new', 'w').write('x')",
        "open('/usr/lib/new', 'w').write('x')",
        "open(f'/proc/self/fd/{source.file.fileno()}', 'r+b').write(b'x')",
        "source.file.fileno() and __import__('os').write(source.file.fileno(), b'x')",
        "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
        "import socket; socket.socket(socket.AF_UNIX).connect('FOLDER/socket')",
        "import os; os.kill(PARENT, 0)",
        "import os; os.listdir('FOLDER')",
        "import os; os.listdir('/tmp')",
        "import os; os.listdir('/proc')",
        "import os; os.execv('/bin/sh', ['sh'])",
        "open('/etc/passwd').read()",
        "open('SECRET').read()",
    ],
)
@shut_in
def test_nothing_can_be_written_reached_or_seen_from_inside(
    lines: str, model: Path, acting: Acting, tmp_path_factory: pytest.TempPathFactory
):
    place = tmp_path_factory.mktemp("s")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as near:
        near.bind(str(place / "socket"))
        near.listen()
        with tempfile.NamedTemporaryFile(dir=Path.home()) as secret:
            known = {"PORT": str(server.getsockname()[1]), "PARENT": str(os.getpid())}
            known |= {"FOLDER": str(place), "SECRET": secret.name}
            for word, value in known.items():
                lines = lines.replace(word, value)
            acting(lines)
            with pytest.raises(RuntimeError, match=r"Error"):
                read_weights(model)
    assert [path.name for path in place.iterdir()] == ["socket"]


def test_limits_alone_keep_it_from_writing(model: Path, acting: Acting):
    acting(f"with open({str(model.parent / 'new')!r}, 'w') as file: file.write('x')")
    with pytest.raises(RuntimeError, match="File too large"):
        read_weights(model, Guard("process"))
    assert (model.parent / "new").read_bytes() == b""


def test_a_spent_budget_ends_the_reading_and_is_no_refusal(model: Path, acting: Acting):
    acting("import time; time.sleep(60)")
    begun = time.monotonic()
    with pytest.raises(BudgetSpentError):
        read_weights(model, Guard(deadline=begun + 0.5))
    assert time.monotonic() - begun < 5


FORGED = """
import hashlib, json, sys
tensors = (child.RawTensor("a", "float32", (2,)),)
sent = child.safetensors_header(tensors)
told = {"container": "zip", "seen": [], "form": "", "notes": [], "name": ""}
told |= {"sha256": "SHA256", "size": len(sent) + 8}
tensor = {"name": "a", "dtype": "float32", "shape": [2]}
held = {"container": "zip", "form": "", "tensors": [tensor], "other_tensors": 0, "metadata": []}
held |= {"notes": [], "refusal": None, "weights_file": "x", "size_bytes": 1, "sha256": "y"}
held |= {"sandbox": "none"}
CHANGE
child._say(held if CONTENTS else told)
sys.stdout.buffer.write(sent + bytes(8))
sys.stdout.flush()
child._say({"end": "of the file"})
sys.exit()
"""


def forged(change: str, model: Path, *, contents: bool) -> str:
    """Lines of a process that was taken over; `change` makes it say what it may not."""
    lines = FORGED.replace("SHA256", sha256_of(model)).replace("CONTENTS", str(contents))
    return lines.replace("CHANGE", change)


def test_a_forged_reply_that_keeps_the_rules_is_taken_but_for_what_we_know(
    model: Path, acting: Acting
):
    acting(forged("", model, contents=False))
    found = read_weights(model).inspection
    assert (found.sha256, found.size_bytes) == (sha256_of(model), model.stat().st_size)
    assert found.weights_file == model
    acting(forged("", model, contents=True))
    held = guarded_contents(model)
    assert (held.sha256, held.size_bytes) == (sha256_of(model), model.stat().st_size)
    assert (held.weights_file, held.sandbox) == ("model.pt", Guard().kind)


@pytest.mark.parametrize(
    "change",
    [
        "told['sha256'] = hashlib.sha256().hexdigest()",
        "told['sha256'] = None",
        "told['size'] = 2**40",
        "told['size'] = -1",
        "told['size'] = 1e3",
        "del told['size']",
        "told['more'] = 1",
        "told['container'] = []",
        "told['container'] = 'pass'",
        "told['form'] = 'x' * 5000",
        "told['name'] = 7",
        "told['notes'] = 'CG110'",
        "told['notes'] = ['CG110'] * 1000",
        "told['seen'] = [['CG110']]",
        "sent = child.safetensors_header((child.RawTensor('a', 'int8', (8,)),))",
        "sent = child.safetensors_header((child.RawTensor('\\x1b[m', 'float32', (2,)),))",
        "sent = child.safetensors_header((child.RawTensor('a' * 600, 'float32', (2,)),))",
        "sent = (2**62).to_bytes(8, 'little') + sent[8:]",
        "told = {'error': 'refused', 'message': ['x'] * 10**6}",
        "sys.stderr.write('[' * 2**25 + '\\n')",
        "sys.stderr.write('9' * 10**6 + '\\n')",
        "sys.stderr.write('[]\\n')",
        "sys.exit()",
    ],
)
def test_a_forged_reply_about_weights_is_refused(
    change: str, model: Path, acting: Acting, one_line
):
    acting(forged(change, model, contents=False))
    with one_line(RefusedError, r"^model\.pt: "):
        read_weights(model)


@pytest.mark.parametrize(
    "change",
    [
        "del held['notes']",
        "held['tensors'] = {}",
        "held['tensors'] = [tensor | {'shape': [-1]}]",
        "held['tensors'] = [tensor | {'shape': [True]}]",
        "held['tensors'] = [tensor | {'dtype': 'quint8'}]",
        "held['tensors'] = [tensor | {'name': 'a\\nb'}]",
        "held['tensors'] = [['a', 'float32', []]]",
        "held['metadata'] = [['a', 1]]",
        "held['metadata'] = [['a', 'b']] * 100",
        "held['refusal'] = 3",
        "held['other_tensors'] = 2**40",
    ],
)
def test_a_forged_reply_about_contents_is_a_refusal(change: str, model: Path, acting: Acting):
    acting(forged(change, model, contents=True))
    found = guarded_contents(model)
    assert found.refusal.startswith("model.pt: CG104")
    assert (found.sha256, found.tensors) == (sha256_of(model), ())


def test_a_file_that_changes_while_it_is_read_is_refused(model: Path, acting: Acting, one_line):
    acting(forged("", model, contents=False))
    before = model.read_bytes()
    model.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with one_line(RefusedError, r"^model\.pt: CG103"):
        read_weights(model)


def test_errors_of_the_reader_come_through_as_they_are(tmp_path: Path, model: Path, one_line):
    with pytest.raises(UsageError, match="no file"):
        read_weights(tmp_path / "nothing.pt")
    model.write_bytes(model.read_bytes()[:-1])
    with one_line(RefusedError, r"^model\.pt: CG103"):
        read_weights(model)


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_a_file_that_may_not_be_read_is_a_usage_error(
    mode: str, model: Path, monkeypatch: pytest.MonkeyPatch, one_line
):
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("clipguard.checkpoint.source.os.open", deny)
    with one_line(UsageError, r"model\.pt: Permission denied"):
        read_weights(model, Guard(mode))


@pytest.mark.parametrize("mode", [pytest.param("auto", marks=shut_in), "process"])
def test_an_interrupt_ends_it_at_once(mode: str, model: Path, acting: Acting):
    acting("import time; time.sleep(60)")
    begun = time.monotonic()
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        read_weights(model, Guard(mode))
    assert time.monotonic() - begun < 5
