"""Text that came from outside (model, class list, path) on its way to a person."""

from __future__ import annotations

import re
import unicodedata

LIMIT = 120
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u2028\u2029\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
)
"""Line ends of Unicode, and letters and marks without a shape, which hide text in text."""
COMMAND = re.compile(r":(?=:)|##(?=\w*\[)")
"""What begins a command to a CI runner: `::` at the start of a line, `##[` or `##vso[` anywhere."""


def safe_text(text: object, limit: int = LIMIT) -> str:
    r"""`text` without anything that could steer a terminal or a reader.

    Control characters (C0, C1), bidirectional and zero-width marks, letters without a shape,
    surrogates, private-use and unassigned code points become `\u{...}`; what a CI runner takes for
    a command gets a blank; long text is cut and the cut is visible.
    Markup of a particular medium (HTML, Markdown, rich) is still the renderer's job.

    Args:
        text: anything; `str()` is applied.
        limit: characters of `text` that are kept; the escapes of a few may be longer.
    """
    raw = str(text)
    shown = "".join(
        _hex(char) if unicodedata.category(char)[0] == "C" or UNSEEN.match(char) else char
        for char in raw[:limit]
    )
    shown = COMMAND.sub(r"\g<0> ", shown)
    return shown if len(raw) <= limit else f"{shown}… (+{len(raw) - limit} characters)"


def _hex(char: str) -> str:
    return f"\\u{{{ord(char):x}}}"
