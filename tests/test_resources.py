"""What ships with clipguard, and digests of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipguard import resources


def test_data_is_told_by_its_name_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    digest = resources.data_digest.__wrapped__  # a process reads the shipped files once
    (tmp_path / "assets" / "a").mkdir(parents=True)
    found = set()
    for name, text in (("x.zip", "1"), ("x.zip", "2"), ("y.zip", "2"), ("a/y.zip", "2")):
        (tmp_path / "assets" / name).write_text(text)
        found.add(digest(("*.zip", "*/*.zip")))
    assert len(found) == 4
    assert digest(("x.zip", "*.zip")) == digest(("*.zip",))
