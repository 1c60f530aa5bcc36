"""Text from outside on its way to a person."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipguard.text_safety import LIMIT, safe_text

ANY_TEXT = st.text(st.characters())


@settings(deadline=None)
@given(ANY_TEXT)
def test_nothing_that_steers_a_terminal_or_a_reader_is_left(text: str):
    for char in safe_text(text):
        category = unicodedata.category(char)
        assert category[0] != "C"
        assert category not in ("Zl", "Zp")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\u{1b}[2J"),
        ("a\nb\r\tc", r"a\u{a}b\u{d}\u{9}c"),
        ("\x9b31m", r"\u{9b}31m"),
        ("\u202egnp.exe", r"\u{202e}gnp.exe"),
        ("a\u200bb", r"a\u{200b}b"),
        ("\u2028", r"\u{2028}"),
        ("\ud800", r"\u{d800}"),
        ("::error::a", ": :error: :a"),
        ("a :::", "a : : :"),
        ("##[error]", "## [error]"),
        ("###vso[task]", "### vso[task]"),
        *((text, text) for text in ("", "Äpfel & Birnen", "数字", "a <b> [c]", "🍌", "\\u{1b}")),
        (ValueError("a\x00b"), r"a\u{0}b"),
        ("\ue000\U000e0041", r"\u{e000}\u{e0041}"),
    ],
)
def test_control_marks_are_shown_instead_of_obeyed(text: object, shown: str):
    assert safe_text(text) == shown


def test_a_cut_is_visible():
    assert safe_text("x" * LIMIT) == "x" * LIMIT
    assert safe_text("x" * (LIMIT + 5)) == "x" * LIMIT + "… (+5 characters)"
    assert safe_text("abcdef", limit=2) == "ab… (+4 characters)"


@pytest.mark.parametrize("char", ["\u3164", "\u115f", "\u2800", "\ufe00", "\U000e0100", "\u034f"])
def test_a_mark_without_a_shape_is_shown(char: str):
    assert safe_text(f"a{char}b") == f"a\\u{{{ord(char):x}}}b"
