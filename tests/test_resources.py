"""What ships with clipguard, and digests of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipguard import resources


def test_a_file_is_told_by_its_name_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    (tmp_path / "a").mkdir()
    found = set()
    for name, text in (("x.py", "1"), ("x.py", "2"), ("y.py", "2"), ("a/y.py", "2")):
        (tmp_path / name).write_text(text)
        found.add(resources.digest_of(("*.py", "*/*.py")))
    assert len(found) == 4
    assert resources.digest_of(("x.py", "*.py")) == resources.digest_of(("*.py",))
