"""The typer app, its entry point, and the one place where failures become exit codes."""

from __future__ import annotations

import difflib
import importlib
import inspect
import io
import os
import pkgutil
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shutil import get_terminal_size
from types import FrameType
from typing import Any, cast

import typer

import clipguard.cli
from clipguard import __version__
from clipguard.cli.crash import crash_line
from clipguard.cli.settings import PREFIX, Setting, filled, settings_file
from clipguard.errors import ENVIRONMENT, INTERRUPTED, TERMINATED, USAGE, ClipguardError, UsageError
from clipguard.text_safety import safe_text

NOT_COMMANDS = {
    "app",
    "arguments",
    "crash",
    "dry_run",
    "lab_bench",
    "lab_zoo",
    "settings",
    "show",
    "tree",
}
WIDE, LABEL = 60, 6
"""Columns of a terminal from which help has two columns, and those of the first one below that."""
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
        rich_markup_mode=None,  # its tables cut names where a terminal is narrow
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
    added: dict[str, Setting] = {}
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a narrow terminal must not lose a verdict
    try:
        # typer turns an interrupt into the code 130, so only `terminated` knows which it was.
        words = sys.argv[1:] if arguments is None else arguments
        _require_words(words)
        found = settings_file(Path())
        # Settings may speak of any command; without them the module of this one is enough.
        told = found is not None or any(name.startswith(PREFIX) for name in os.environ)
        root: Any = typer.main.get_command(build_app(None if told or not words else words[0]))
        _tell_whole(root)
        words, added = filled(root, words, found)
        code = root(args=words, prog_name="clipguard", standalone_mode=False)
    except ClipguardError as error:
        _say(f"error: {error}")
        return error.exit_code
    except CommandLineError as error:
        _misused(cast(Any, error), added)
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


def _tell_whole(group: Any) -> None:
    """Let help say all on a narrow terminal: it cuts sentences, and takes 50 columns or more."""
    columns = get_terminal_size().columns
    if columns < WIDE:
        group.context_class = _narrow(group.context_class, columns)
    for command in getattr(group, "commands", {}).values():
        paragraph = inspect.cleandoc(command.help or "").partition("\n\n")[0]
        command.short_help = " ".join(paragraph.split())
        _tell_whole(command)


def _narrow(context: Any, columns: int) -> Any:
    """A context whose help has what an option does below its name, in so many columns."""
    base = context.formatter_class
    changes = {
        "__init__": lambda self, **_: base.__init__(self, width=columns),
        "write_dl": lambda self, rows, **_: base.write_dl(self, rows, col_max=LABEL),
    }
    formatter = type("Narrow", (base,), changes)
    return type("NarrowContext", (context,), {"formatter_class": formatter})


def _misused(error: Any, added: Mapping[str, Setting]) -> None:
    """Say what is wrong with a command line, what may have been meant, and who said it."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    # pydantic puts its own word before what is wrong with a value
    told = str(error.format_message()).rstrip(".").replace(": Value error, ", ": ")
    found = re.search(r"'([^']*)' is not one of (.*)", told)
    close = found and difflib.get_close_matches(found[1], re.findall(r"'([^']*)'", found[2]), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    made = added.get(getattr(getattr(error, "param", None), "name", ""))
    origin = f" (from {made.origin})" if made else ""
    _say(f"error: {told}{hint}{origin}; see --help")


def _require_words(given: list[str]) -> None:
    # An empty path would be the current folder.
    empty = [i for i, word in enumerate(given, 1) if re.fullmatch(r"(--[^=]+=)?\s*", word)]
    if empty:
        raise UsageError(
            f"{_called(given, empty[0])} is empty, as from a variable that is not set; give it a "
            "value"
        )
    for i, word in enumerate(given, 1):
        name = max(re.split(r"[/=]", word), key=len)
        if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
            told = _called(given, i)
            raise UsageError(f"{told} is longer than a file may be called: {safe_text(name)}")


def _called(given: list[str], number: int) -> str:
    """The option that a word belongs to, as it was typed; else its place among the words."""
    before, word = given[number - 2] if number > 1 else "", given[number - 1]
    for text in (word, before):
        if found := re.match(r"--?[A-Za-z][\w-]*(?==|$)", text):
            return found[0]
    return f"word {number} of the command"


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
