"""The log of looks at the test split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zoo_samples import ENTRIES, entry, make_zoo

from clipguard.errors import UsageError
from clipguard.lab.looks import FILE, Look, count_looks, log_look, look_at
from clipguard.lab.zoo_manifest import read_zoo

PRINTS = {"inversion": "a" * 64}


@pytest.fixture
def look(tmp_path: Path) -> Look:
    return look_at(read_zoo(make_zoo(tmp_path)), "detect", PRINTS, ENTRIES, "clipguard lab bench")


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
        look_at(zoo, "detect", {"inversion": "b" * 64}, ENTRIES, ""),
        look_at(zoo, "detect", PRINTS, ENTRIES[1:], ""),
        look_at(zoo, "detect", PRINTS, (entry(1, sha256="0" * 64), *ENTRIES[1:]), ""),
        look_at(zoo, "purify", PRINTS, ENTRIES, ""),
    ]
    for each in (look, look, *others, look):
        log_look(tmp_path, each)
    assert len((tmp_path / FILE).read_text().splitlines()) == 5 == count_looks(tmp_path)


def test_two_parts_that_log_at_once_are_one_look(look: Look, tmp_path: Path):
    log_look(tmp_path, look)
    line = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(line + line)
    assert count_looks(tmp_path) == 1


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
    with pytest.raises(UsageError, match="it is a link; without its log nothing is run"):
        log_look(tmp_path, look)
    assert (tmp_path / "elsewhere").read_text() == "mine\n"
