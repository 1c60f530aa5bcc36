"""The log of looks at the test split."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from zoo_samples import ENTRIES, entry, make_zoo

from clipguard.errors import UsageError
from clipguard.lab.bench.looks import FILE, SIZE_LIMIT, Look, count_looks, log_look, look_at
from clipguard.lab.zoo.manifest import read_zoo

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="has neither pipes nor devices as files")
PRINTS = {"inversion": "a" * 64}
OTHER = {"inversion": "b" * 64}
ALSO = "figures/1"


@pytest.fixture
def look(tmp_path: Path) -> Look:
    zoo = read_zoo(make_zoo(tmp_path))
    return look_at(zoo, "detect", PRINTS, ENTRIES, "clipguard lab bench", also=ALSO)


def test_a_look_says_what_was_looked_at(look: Look, tmp_path: Path):
    assert count_looks(tmp_path) == 0
    log_look(tmp_path, look)
    (line,) = (tmp_path / FILE).read_text().splitlines()
    told = json.loads(line)
    assert told.keys() == {
        *("time", "what", "methods", "zoo", "fingerprint", "command", "cells", "version")
    }
    assert (told["what"], told["methods"], told["cells"]) == ("detect", ["inversion"], 6)
    assert count_looks(tmp_path) == 1


def test_the_same_look_counts_once_and_another_counts(look: Look, tmp_path: Path):
    zoo = read_zoo(tmp_path)
    others = [
        look_at(zoo, "detect", OTHER, ENTRIES, "", also=ALSO),
        look_at(zoo, "detect", PRINTS, ENTRIES[1:], "", also=ALSO),
        look_at(zoo, "detect", PRINTS, (entry(1, sha256="0" * 64), *ENTRIES[1:]), "", also=ALSO),
        look_at(zoo, "detect", PRINTS, (entry(1, planted=False), *ENTRIES[1:]), "", also=ALSO),
        look_at(zoo, "purify", PRINTS, ENTRIES, "", also=ALSO),
        look_at(zoo, "detect", PRINTS, ENTRIES, "", also="figures/2"),
    ]
    for each in (look, look, *others, look):
        log_look(tmp_path, each)
    lines = (tmp_path / FILE).read_text()
    assert len(lines.splitlines()) == 7 == count_looks(tmp_path)
    (tmp_path / FILE).write_text(2 * lines)  # as two parts write that log at once
    assert count_looks(tmp_path) == 7


def test_a_torn_line_counts_and_the_next_look_gets_its_own(look: Look, tmp_path: Path):
    (tmp_path / FILE).write_text('{"time": "2026')
    log_look(tmp_path, look)
    assert count_looks(tmp_path) == 2
    assert json.loads((tmp_path / FILE).read_text().splitlines()[1])["cells"] == 6


def test_without_its_log_nothing_may_run(look: Look, tmp_path: Path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(UsageError, match="without its log nothing is run"):
        log_look(tmp_path, look)
    with pytest.raises(UsageError, match="cannot read"):
        count_looks(tmp_path)


def test_a_log_that_links_elsewhere_is_not_written(look: Look, tmp_path: Path):
    (tmp_path / "elsewhere").write_text("mine\n")
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="it is a link"):
        log_look(tmp_path, look)
    assert (tmp_path / "elsewhere").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("put", "says"),
    [
        pytest.param(lambda path: os.mkfifo(path), "no ordinary file", marks=POSIX),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "a link", marks=POSIX),
        (lambda path: path.write_bytes(bytes(SIZE_LIMIT + 1)), "larger than any log"),
    ],
)
def test_a_log_that_would_be_read_without_end_is_refused(
    look: Look, tmp_path: Path, put: Callable[[Path], None], says: str, one_line
):
    put(tmp_path / FILE)
    for reads in (lambda: log_look(tmp_path, look), lambda: count_looks(tmp_path)):
        with one_line(UsageError, says):
            reads()


@pytest.mark.parametrize("bad", ["x", "A" * 64, "a" * 64 + "\n", 5, None])
def test_a_line_whose_digests_are_none_counts_as_a_look(look: Look, tmp_path: Path, bad: object):
    log_look(tmp_path, look)
    line = json.loads((tmp_path / FILE).read_text()) | {"fingerprint": bad}
    (tmp_path / FILE).write_text(2 * (json.dumps(line) + "\n"))
    assert count_looks(tmp_path) == 2


def test_a_zoo_without_a_digest_cannot_be_looked_at(tmp_path: Path, one_line):
    zoo = replace(read_zoo(make_zoo(tmp_path)), digest="\x1bx")
    with one_line(UsageError, "expected a digest of 64 hex digits"):
        look_at(zoo, "detect", PRINTS, ENTRIES, "", also=ALSO)
