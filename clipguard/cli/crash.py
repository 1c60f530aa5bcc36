"""The last resort: what nobody foresaw becomes one line, and a file to attach to a bug report."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback

from clipguard import __version__
from clipguard.text_safety import safe_text

LINE, LINES = 400, 2000


def crash_line(error: BaseException, about: str = "") -> str:
    """What to say of `error`; its traceback goes into a file in the temporary folder.

    Args:
        error: caught where nothing more can be done about it.
        about: name of the file that it was about.

    Returns:
        One line without control characters. It names the file, if one could be written.
    """
    name = f"{safe_text(about)}: " if about else ""
    told = (
        f"error: {name}this is a bug in clipguard or in what it runs on, not a verdict "
        f"({type(error).__name__}: {safe_text(error)})"
    )
    try:
        handle, path = tempfile.mkstemp(prefix="clipguard-bug-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_report(error))
    except OSError:
        return f"{told}; no file about it could be written"
    return f"{told}; attach {safe_text(path, LINE)} to a bug report"


def _report(error: BaseException) -> str:
    """Versions and traceback. The command line is left out: it may name what is nobody's business.

    Messages may hold text from outside, so the file is made as harmless as the terminal.
    """
    told = "".join(traceback.format_exception(error)).splitlines()
    head = (
        f"clipguard {__version__}, Python {platform.python_version()}, {platform.platform()}, "
        f"{sys.platform}"
    )
    return "\n".join(safe_text(line, LINE) for line in [head, *told[-LINES:]]) + "\n"
