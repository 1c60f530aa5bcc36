"""A process of its own for whatever opens a model file, with limits, and without a way out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from clipguard.checkpoint.bubblewrap import READER, Program, command, works
from clipguard.checkpoint.child import Task, Work
from clipguard.checkpoint.raw import Buffer, SandboxKind
from clipguard.checkpoint.source import Source
from clipguard.errors import BudgetSpentError, ClipguardError, RefusedError
from clipguard.text_safety import safe_text

SandboxMode = Literal["auto", "process", "none"]
MEMORY = 512 * 2**20
"""Bytes beside twice the size of the file, which is held once as it is and once in order."""
CPU_S, CPU_RATE = 8, 10 * 2**20
"""Seconds of processor time, and bytes of the file for which there is one more."""
WALL_S, WALL_RATE = 30, 5 * 2**20
"""The same of the clock on the wall, for a slow disk and a busy machine."""
START_S = 10
MAX_LINE = 16 * 2**20
"""Bytes of what it may say at once; Python may take twenty times as many to hold it."""
MAX_MESSAGE = 10_000
INHERITED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""Variables that some Pythons need to start."""
FEW_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True)
class Guard:
    """How a file from outside is opened.

    Attributes:
        mode: `auto` takes the best that this machine has, `process` a process with limits, `none`
            the process that asks.
        deadline: by `time.monotonic`, when whoever reads has to be done; None for no such time.
    """

    mode: SandboxMode = "auto"
    deadline: float | None = None

    @property
    def kind(self) -> SandboxKind:
        """What is used here: `bubblewrap` where it works, `process` where limits do."""
        if self.mode == "none" or os.name != "posix" or not sys.executable:
            return "none"
        return "bubblewrap" if self.mode == "auto" and works() else "process"


AUTO = Guard()


@dataclass(frozen=True)
class Job:
    """What a process does with a file, within which limits.

    Attributes:
        program: what is run.
        work: what it shall do.
        memory: see `Task.memory`.
        cpu_s: see `Task.cpu_s`.
    """

    program: Program
    work: Work
    memory: int
    cpu_s: int


class Reader:
    """The process that reads a file, as seen from here. Made by `reader_of`."""

    def __init__(self, process: subprocess.Popen[bytes], task: Task) -> None:
        self._out = cast(BufferedReader, process.stdout)
        self.name = safe_text(task.name)
        self._process, self._task = process, task
        self.too_late = False

    def stop(self) -> None:
        """End it, and whatever it started."""
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it has gone; so says macOS of a zombie
                return

    def expire(self) -> None:
        """End it, for its time is over."""
        self.too_late = True
        self.stop()

    def told(self) -> dict[str, Any]:
        """What it says next.

        Raises:
            RefusedError: the file is refused, or the process came to a limit or died (CG104).
            RuntimeError: the process has a bug.
        """
        line = cast(BinaryIO, self._process.stderr).readline(MAX_LINE)
        if len(line) == MAX_LINE:
            raise RefusedError(f"{self.name}: CG104 it has more parts than a checkpoint has")
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            raise self._failure(line) from None
        if not isinstance(told, dict):
            raise self._failure(line)
        if "error" in told:
            message = told.get("message")
            message = message[:MAX_MESSAGE] if isinstance(message, str) else ""
            kind = {"refused": RefusedError, "failed": ClipguardError}.get(str(told["error"]))
            if kind is None:
                raise RuntimeError(message)
            before = "" if message.startswith(self.name) else f"{self.name}: "
            raise kind(f"{before}{safe_text(message, MAX_MESSAGE)}")
        return told

    def tell(self, data: Buffer) -> None:
        """Send what it waits for; if it is gone, what it says next tells why."""
        pipe, rest = cast(BinaryIO, self._process.stdin).fileno(), memoryview(data)
        with suppress(BrokenPipeError):
            while rest:
                rest = rest[os.write(pipe, rest) :]

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """End it unless what is done in here takes less than so many seconds."""
        timer = threading.Timer(max(0.0, seconds), self.expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def read(self, count: int) -> bytes:
        """The next `count` bytes that it sends.

        Raises:
            RefusedError: as `told`, because it sent fewer.
        """
        data = bytearray(count)
        self.fill(data)
        return bytes(data)

    def fill(self, buffer: bytearray) -> None:
        """Fill `buffer` with what it sends next; errors as of `read`."""
        if self._out.readinto(buffer) != len(buffer):
            self.told()  # raises what went wrong
            raise RefusedError(f"{self.name}: CG104 the process that read it sent too little")

    def _failure(self, said: bytes) -> Exception:
        """Why it says nothing that can be understood."""
        try:
            code = self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            code = 0
        number = -code if code < 0 else code - 128  # bubblewrap tells of a signal as a shell does
        if self.too_late:
            return RefusedError(f"{self.name}: CG104 to read it takes longer than its size allows")
        if number == signal.SIGXCPU:
            most = f"{self._task.cpu_s} s of the processor"
            return RefusedError(f"{self.name}: CG104 to read it takes more than {most}")
        if number > 0:
            what = signal.Signals(number).name if number in {*signal.Signals} else str(number)
            return RefusedError(f"{self.name}: CG104 the process that read it was ended by {what}")
        if code == 0:  # it did not fail, so it says what it may not
            return RefusedError(f"{self.name}: CG104 the process that read it is not understood")
        text = safe_text(said.decode("utf-8", "replace"), 400)
        return RuntimeError(f"the process that read {self.name} ended with code {code} {text}")


@contextmanager
def reader_of(source: Source, path: Path, work: Work, guard: Guard) -> Iterator[Reader]:
    """Start a process that reads an open file; it is gone afterwards, however that comes.

    Args:
        source: the file, which nobody else may seek in meanwhile.
        path: what it is called; it is not opened again.
        work: what to tell of it.
        guard: anything but of the kind `none`.

    Raises:
        BudgetSpentError: the guard's deadline came first.
    """
    size = source.size
    seconds = WALL_S + size / WALL_RATE
    left = seconds if guard.deadline is None else guard.deadline - time.monotonic()
    job = Job(READER, work, MEMORY + 2 * size, CPU_S + size // CPU_RATE)
    with process_of(source, path, job, guard) as reader, reader.within(min(seconds, left)):
        try:
            yield reader
        except RefusedError as error:
            if not reader.too_late or left >= seconds:
                raise
            raise BudgetSpentError(f"the budget ran out while {reader.name} was read") from error


@contextmanager
def process_of(source: Source, path: Path, job: Job, guard: Guard) -> Iterator[Reader]:
    """Start a process that does `job` with an open file; it is gone afterwards.

    Args:
        source: the file, which nobody else may seek in meanwhile.
        path: what it is called; it is not opened again.
        job: what to do, within which limits.
        guard: anything but of the kind `none`.
    """
    shut_in = guard.kind == "bubblewrap"
    task = Task(
        work=job.work,
        file=source.file.fileno(),
        size=source.size,
        name=path.name,
        memory=job.memory,
        cpu_s=job.cpu_s,
        parent=0 if shut_in else os.getpid(),
    )
    reader = _started(task, command(job.program, shut_in=shut_in))
    with reader._process:  # closes its pipes and waits for it
        try:
            yield reader
        finally:
            reader.stop()


def _started(task: Task, words: list[str]) -> Reader:
    process = subprocess.Popen(
        [*words, json.dumps(asdict(task))],
        pass_fds=[task.file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={key: os.environ[key] for key in INHERITED if key in os.environ} | FEW_THREADS,
        start_new_session=True,  # a group that can be ended as one; Ctrl-C is ours to pass on
    )
    return Reader(process, task)
