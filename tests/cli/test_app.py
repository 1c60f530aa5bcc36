"""The entry point: help, version, and the one place where failures become exit codes."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from processes import run_python

import clipguard
from clipguard.cli import app as app_module
from clipguard.cli.app import main
from clipguard.errors import (
    ClipguardError,
    ExportError,
    InconclusiveError,
    RefusedError,
    UsageError,
)

COMMANDS = [
    *("scan", "purify", "export", "predict", "report", "gate", "policy", "demo", "doctor"),
    *("lab", "calibrate", "schema"),
]


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the app have one command, `fail`, that raises `error`."""

    def fail() -> None:
        raise error

    def build(only: str | None) -> typer.Typer:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.callback()(lambda: None)
        app.command()(fail)
        return app

    monkeypatch.setattr(app_module, "build_app", build)


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from clipguard.cli.app import main; code = main(['--help']); "
        "heavy = {'torch', 'open_clip', 'onnx', 'onnxruntime', 'numpy', 'PIL'} & set(sys.modules); "
        "print(code, sorted(heavy))"
    )
    shown = run_python("-c", code, code=0).stdout
    assert shown.splitlines()[-1] == "0 []"
    assert [name for name in COMMANDS if f" {name} " not in shown] == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "Usage:"),
        (["lab"], 2, "Usage:"),
        (["policy"], 2, "Usage:"),
        (["--version"], 0, f"clipguard {clipguard.__version__}\n"),
    ],
)
def test_nothing_to_do_shows_the_help_and_is_a_usage_error(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert says in shown.out + shown.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["scna"], "scna"),
        (["scan"], "Missing argument"),
        (["scan", "a.pt", "--seed", "-1"], "--seed"),
        (["gate", "--no-such-option"], "--no-such-option"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: list[str], says: str, refused: Callable[..., str]
):
    assert re.search(rf"{says}.*see --help\n", refused(2, *arguments))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("why"), 2),
        (InconclusiveError("why"), 3),
        (RefusedError("why"), 4),
        (ClipguardError("why"), 5),
        (ExportError("why"), 6),
    ],
)
def test_an_explained_failure_is_one_line_and_its_own_code(
    error: ClipguardError,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    raising(monkeypatch, error)
    assert main(["fail"]) == code
    assert capsys.readouterr().err == "error: why\n"


def named_file(line: str) -> Path:
    """The file that a line about a bug asks to attach."""
    return Path(re.search(r"attach (.*) to a bug report\n$", line)[1])


def test_a_bug_is_one_line_and_a_file_and_never_exits_like_a_failed_gate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: Callable[..., str]
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    raising(monkeypatch, RuntimeError("broken\x1b[2J\n::error::pwned"))
    file = named_file(refused(5, "fail"))
    assert file.parent == tmp_path
    told = file.read_text(encoding="utf-8")
    assert "Traceback" in told
    assert "RuntimeError: broken" in told
    assert clipguard.__version__ in told
    assert not re.search(r"\x1b|(?m:^\s*::)", told)


def test_a_bug_is_told_where_no_file_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: Callable[..., str]
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    raising(monkeypatch, RecursionError("deep"))
    assert "RecursionError" in refused(5, "fail")


def test_output_that_nobody_reads_is_not_a_failed_gate():
    shell = f"{shlex.quote(sys.executable)} -m clipguard schema | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 5)  # 0 where all of it went into the pipe before it was closed
    assert "Traceback" not in done.stderr


def test_a_newline_in_a_wrong_option_starts_no_line(refused: Callable[..., str]):
    assert "see --help" in refused(2, "scan", "--x\n::error::pwned")


def test_an_interrupt_and_an_end_from_outside_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    raising(monkeypatch, KeyboardInterrupt())
    assert (main(["fail"]), capsys.readouterr().err) == (130, "interrupted\n")

    monkeypatch.setattr(app_module, "build_app", lambda only: signal.raise_signal(signal.SIGTERM))
    assert (main(["fail"]), capsys.readouterr().err) == (143, "terminated\n")


def test_text_from_outside_cannot_steer_the_terminal(tmp_path: Path, refused: Callable[..., str]):
    model = tmp_path / "evil\x1b[2J\n##[error].pt"
    model.write_text("text")
    assert "\x1b" not in refused(4, "scan", model, "-o", tmp_path / "out", "-q")


@pytest.mark.parametrize("words", [["--help"], ["scan", "--help"], ["gate", "--help"], ["policy"]])
def test_help_fits_a_narrow_terminal(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    main(words)
    shown = "".join(capsys.readouterr())
    assert [line for line in shown.splitlines() if len(line) > 40] == []
    assert len(shown.splitlines()) > 10
