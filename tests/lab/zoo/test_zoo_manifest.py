"""The manifest of a zoo: read with suspicion, written as it is read."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from zoo_samples import ENTRIES, entry, honest, make_zoo

from clipguard.errors import UsageError
from clipguard.lab.zoo.manifest import FILE, SIZE_LIMIT, Entry, read_truth, read_zoo

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="has neither pipes nor devices as files")


def test_what_is_written_is_read(tmp_path: Path):
    unbuilt = replace(entry(7), sha256=None)
    zoo = read_zoo(make_zoo(tmp_path, (*ENTRIES, unbuilt)))
    assert zoo.entries == (*ENTRIES, unbuilt)
    assert zoo.built() == ENTRIES
    assert zoo.preset == "ci"
    assert all(Entry.from_json(json.loads(json.dumps(e.to_json()))) == e for e in zoo.entries)


def changed(folder: Path, **given: object) -> Path:
    """A zoo whose first entry was changed."""
    data = json.loads((make_zoo(folder) / FILE).read_text())
    data["entries"][0].update(given)
    (folder / FILE).write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("put", "says"),
    [
        pytest.param(lambda path: os.mkfifo(path), "it is no ordinary file", marks=POSIX),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "leads out of", marks=POSIX),
        (lambda path: path.symlink_to(path.name), "[Ll]oop|too many levels"),
        (lambda path: path.write_bytes(bytes(SIZE_LIMIT + 1)), "larger than it may be"),
    ],
)
def test_a_file_of_a_zoo_that_would_be_read_without_end_is_refused(
    tmp_path: Path, put, says: str, one_line
):
    make_zoo(tmp_path / "zoo")
    for name, read in ((FILE, read_zoo), ("victim.json", lambda zoo: read_truth(zoo, "."))):
        (tmp_path / "zoo" / name).unlink(missing_ok=True)
        put(tmp_path / "zoo" / name)
        with one_line(UsageError, says):
            read(tmp_path / "zoo")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"id": "../../../../x"}, "entry ../../../../x: id"),
        ({"id": f"{1:016x}\n"}, "id: String should match"),
        ({"settings": {"size": float("nan")}}, "not JSON compliant"),
        ({"settings": {"size": "\ud800"}}, "surrogates not allowed"),
        ({"id": f"{2:016x}"}, "an id stands twice"),
        ({"kind": "maybe"}, "kind"),
        ({"split": "train"}, "split"),
        ({"asr": 1.5}, "asr"),
        ({"sha256": "0"}, "sha256"),
        ({"colour": "red"}, "colour"),
        ({"attack": "none"}, "attack: must be none"),
        ({"negative": "watermark"}, "negative: names"),
        ({"about": "tiger"}, "about: stands with a hard negative"),
        ({"truth_sha256": "0"}, "truth_sha256"),
        ({"twin": "f" * 16}, "is no clean entry"),
        ({"twin": f"{2:016x}"}, "is no clean entry"),
        ({"path": "../elsewhere"}, "leads out of the zoo"),
        ({"path": "/etc"}, "leads out of the zoo"),
    ],
)
def test_an_impossible_entry_is_told_in_one_line(
    tmp_path: Path, given: dict[str, object], says: str, one_line
):
    with one_line(UsageError, says):
        read_zoo(changed(tmp_path, **given))


def test_a_link_that_leads_out_of_the_zoo_is_refused(tmp_path: Path):
    make_zoo(tmp_path / "zoo", (honest(1),))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "zoo" / "victims").mkdir()
    (tmp_path / "zoo" / "victims" / f"{1:016x}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads out of the zoo"):
        read_zoo(tmp_path / "zoo")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot read .*give the folder of a zoo"),
        ("", "is no clipguard.zoo/1 manifest"),
        ("[]", "is no clipguard.zoo/1 manifest"),
        ("[" * 100_000, "is no clipguard.zoo/1 manifest"),
        ('{"schema_version": "clipguard.zoo/2"}', "schema_version"),
        ('{"schema_version": "clipguard.zoo/1", "preset": "ci", "digest": "x"}', "entries"),
        ("\udcff", "is no clipguard.zoo/1 manifest"),
    ],
)
def test_no_manifest(tmp_path: Path, text: str | None, told: str):
    if text is not None:
        (tmp_path / FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=told):
        read_zoo(tmp_path)
