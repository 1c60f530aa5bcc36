"""A command that was told to end does so within seconds, whatever it computes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import run_python

ONE_LONG_CALL = """
import hashlib, signal, sys
from pathlib import Path
import typer
from clipguard import stopping
from clipguard.cli import app

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
program = typer.Typer()

def say():
    Path("said").write_text("last words")

@program.callback(invoke_without_command=True)
def work():
    with stopping.ends_soon(), stopping.before_the_end(say):
        print("begun", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # minutes, within one call

app.build_app = lambda only: program
sys.exit(app.main([]))
"""


WITHIN_EXEC = """
import sys
import typer
from clipguard.cli import app

program = typer.Typer()

@program.callback(invoke_without_command=True)
def work():
    exec("import os, signal, time; os.kill(os.getpid(), signal.{name}); time.sleep(60)")

app.build_app = lambda only: program
sys.exit(app.main([]))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_within_generated_code_keeps_its_exit_code(name: str, code: int):
    run_python("-c", WITHIN_EXEC.format(name=name), code=code)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_ends_even_one_long_call_of_a_library(
    number: signal.Signals, code: int, word: str, tmp_path: Path
):
    with subprocess.Popen(
        [sys.executable, "-c", ONE_LONG_CALL],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            time.sleep(0.2)
            process.send_signal(number)
            begun = time.monotonic()
            told = process.communicate(timeout=60)[1]
            assert time.monotonic() - begun < 5
        finally:
            process.kill()
    assert (process.returncode, told) == (code, f"{word}\n")
    assert (tmp_path / "said").read_text() == "last words"
