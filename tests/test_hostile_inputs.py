"""Hostile files that are no checkpoints: each is refused in one line, fast, and leaves nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hostile_inputs import KINDS

from clipguard.errors import ClipguardError

CASES = [(kind, name) for kind in KINDS for name in KINDS[kind].cases()]
MAX_SECONDS = 10


def test_there_are_many():
    assert len(set(CASES)) == len(CASES) >= 60


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_is_refused_in_one_line(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    known = KINDS[kind]
    path = tmp_path / known.file
    path.write_bytes(known.cases()[name])
    start = time.process_time()
    with pytest.raises(ClipguardError) as caught:
        known.read(path)
    assert caught.value.exit_code == known.code, caught.value
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000
    assert not line.startswith("::")
    assert time.process_time() - start < MAX_SECONDS
    assert [*tmp_path.iterdir()] == [path]
