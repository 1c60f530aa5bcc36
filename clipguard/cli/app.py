"""The typer app, its entry point, and the one place where failures become exit codes."""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import re
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, cast

import typer

import clipguard.cli
from clipguard import __version__
from clipguard.cli.crash import crash_line
from clipguard.errors import ENVIRONMENT, INTERRUPTED, TERMINATED, USAGE, ClipguardError, UsageError
from clipguard.text_safety import safe_text

NOT_COMMANDS = {"app", "arguments", "crash", "lab_bench", "lab_zoo", "show"}
LONGEST_NAME = 255
"""Bytes. No file system takes more, and asking for such a file is an error of its own kind."""
# typer carries its own click and re-exports only some of it; this is its ClickException.
CommandLineError = cast(type[Exception], typer.BadParameter.__mro__[2])


class Stopped(KeyboardInterrupt):
    """An interrupt or SIGTERM.

    After a plain `KeyboardInterrupt` within any `exec`, which `dataclass` uses, Python ends itself
    by SIGINT in the end, whatever code it was to exit with.
    """


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipguard {__version__}")
        raise typer.Exit


def build_app(only: str | None = None) -> typer.Typer:
    """The app: every module of `clipguard.cli` that is not a helper adds its commands.

    Args:
        only: a command whose module alone is imported, since that takes a third of the time; all
            if it is none.
    """
    app = typer.Typer(
        help="Decide whether a CLIP checkpoint may be released.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def main(
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ) -> None:
        pass

    found = {module.name for module in pkgutil.iter_modules(clipguard.cli.__path__)} - NOT_COMMANDS
    for name in sorted(found & {only} or found):
        importlib.import_module(f"clipguard.cli.{name}").add_command(app)
    return app


def main(arguments: list[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code, as listed in the README.
    """
    terminated = _heeding_signals()
    # Looking for plugins of pydantic takes a tenth of a second, and none has business in a gate.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a narrow terminal must not lose a verdict
    try:
        # typer turns an interrupt into the code 130, so only `terminated` knows which it was.
        given = sys.argv[1:] if arguments is None else arguments
        _require_words(given)
        code = build_app(given[0] if given else None)(args=given, standalone_mode=False)
    except ClipguardError as error:
        _say(f"error: {error}")
        return error.exit_code
    except CommandLineError as error:
        _misused(cast(Any, error))
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit:  # typer's answer to a closed pipe is 1, which means "failed gate"
        return ENVIRONMENT
    except Exception as error:  # noqa: BLE001 - uncaught it would exit 1, too
        _say(crash_line(error))
        return ENVIRONMENT
    if code == INTERRUPTED:
        _say("terminated" if terminated else "interrupted")
        return TERMINATED if terminated else INTERRUPTED
    return code if isinstance(code, int) else 0


def _heeding_signals() -> list[int]:
    """Both signals become `Stopped`, so that what was found is still written; SIGTERM is listed."""
    terminated: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            terminated.append(number)
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a shell ignores it in the background
        signal.signal(signal.SIGINT, stop)
    return terminated


def _misused(error: Any) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        _say(f"error: {error.format_message().rstrip('.')}; see --help")


def _require_words(given: list[str]) -> None:
    # An empty path would be the current folder.
    empty = [i for i, word in enumerate(given, 1) if re.fullmatch(r"(--[^=]+=)?", word)]
    if empty:
        raise UsageError(
            f"argument {empty[0]} is empty, as from a variable that is not set; give it a value"
        )
    for i, word in enumerate(given, 1):
        name = max(re.split(r"[/=]", word), key=len)
        if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
            raise UsageError(f"argument {i} is longer than a file may be called: {safe_text(name)}")


def _say(message: str) -> None:
    sys.stderr.write(f"{safe_text(message, 2000)}\n")


def run() -> None:
    """Entry point of the `clipguard` script."""
    code = main()
    if code in (INTERRUPTED, TERMINATED):  # to take everything down in order takes seconds
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
