"""Identity is declared: what a result depends on stands in its key, and how code is laid out not.

Run as a script it prints the keys of the package that is imported, see `keys`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_python
from zoo_samples import Runner, make_zoo

from clipguard.audit.profiles import profile
from clipguard.bundled.nano import class_names
from clipguard.detect import null_band
from clipguard.detect.null_band import choose_band, scan_key
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.bench import matrix
from clipguard.lab.bench.cells import Task
from clipguard.lab.comparators import DETECTORS
from clipguard.lab.negatives import NEGATIVES
from clipguard.lab.zoo.presets import wanted
from clipguard.probe.load import TEMPLATE
from clipguard.probe.sets import BUNDLED, ProbePart, ProbeSet
from clipguard.purify.methods import PURIFIERS
from clipguard.registry import MethodFolder, digest_of, name_of
from clipguard.resources import PACKAGE
from clipguard.search.families import FAMILIES
from clipguard.search.inverters import INVERTERS

FOLDERS = (ATTACKS, NEGATIVES, FAMILIES, INVERTERS, DETECTORS, PURIFIERS)


def scan(source: str = BUNDLED) -> str:
    """Key of a standard scan of nano-rn with images from `source`."""
    standard, part = profile("standard"), ProbePart(*(torch.empty(0) for _ in range(3)))
    probe = ProbeSet(part, part, part, class_names(), (TEMPLATE,), source)
    return scan_key("nano-rn", "standard", standard.detector, standard.scenes, probe)


def keys(zoo: Path) -> dict[str, Any]:
    """Every key that the package makes, and the bench cells of `zoo` that it runs."""
    made = {"package": str(PACKAGE)}
    runner = Runner()
    setattr(matrix, "run_job", runner)  # noqa: B010 - the name is imported, not defined there
    for kind, method in (("detect", "inversion"), ("purify", "cbpt")):
        task = Task(kind=kind, methods=(method,))
        ordered = matrix.make_matrix(task, zoo, zoo / kind, split="all", command="")
        matrix.run(ordered, part=(0, 1), jobs=1, progress=lambda *_: None)
        made[kind] = ordered.prints[method]
    band = choose_band(scan(), None, ("", ""))[1].kind
    ids = {one.name: one.id for one in wanted("full")}
    return made | {"scan": scan(), "band": band, "zoo": ids, "ran": len(runner.ran)}


class Copy:
    """A copy of the package's code, beside the data of the original."""

    def __init__(self, root: Path) -> None:
        self.root, self.package = root, root / "clipguard"
        for path in PACKAGE.rglob("*.py"):
            self.put(path.relative_to(PACKAGE), path.read_text(encoding="utf-8"))
        (self.package / "assets").symlink_to(PACKAGE / "assets")
        for folder in ("policies", "reports"):
            (root / folder).symlink_to(PACKAGE.parent / folder)

    def put(self, name: str | Path, text: str) -> None:
        (self.package / name).parent.mkdir(parents=True, exist_ok=True)
        (self.package / name).write_text(text, encoding="utf-8")

    def rename(self, pattern: str, new: str) -> None:
        """Replace `pattern` in all files."""
        for path in self.package.rglob("*.py"):
            path.write_text(re.sub(pattern, new, path.read_text(encoding="utf-8")))

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.package / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        self.put(name, text.replace(old, new))

    def keys(self, zoo: Path) -> dict[str, Any]:
        done = run_python("-B", __file__, zoo, code=0, path=self.root)
        made: dict[str, Any] = json.loads(done.stdout)
        assert made.pop("package") == str(self.package)
        return made


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The keys as they are, with a zoo whose cells are all made."""
    monkeypatch.setattr(matrix, "run_job", None)
    made = keys(make_zoo(tmp_path / "zoo"))
    assert made.pop("package") == str(PACKAGE)
    assert (made["band"], made["ran"]) == ("models", 9)
    return made


def test_moving_renaming_and_commenting_code_changes_no_key(first: dict[str, Any], tmp_path: Path):
    code = Copy(tmp_path / "code")
    code.rename(r"\bPatch\b", "Opaque")
    code.rename(r"\bBadNets\b", "Stamped")
    moved = (code.package / "search/families/patch.py").read_text(encoding="utf-8")
    code.put("search/families/_opaque.py", f"# A comment.\n{moved}")
    code.put("search/families/patch.py", "from clipguard.search.families._opaque import *\n")
    code.edit(
        "search/families/_opaque.py", "METHOD: type", '__all__ = ["METHOD", "Opaque"]\nMETHOD: type'
    )
    (code.package / "search/descent.py").rename(code.package / "search/adam.py")
    code.rename(r"clipguard\.search\.descent\b", "clipguard.search.adam")
    assert code.keys(tmp_path / "zoo") == first | {"ran": 0}


def test_another_id_or_setting_changes_every_key_it_decides(first: dict[str, Any], tmp_path: Path):
    code = Copy(tmp_path / "code")
    code.edit("search/families/patch.py", '"patch/1"', '"patch/2"')
    code.edit("lab/attacks/badnets.py", "poison_rate: float = 0.08", "poison_rate: float = 0.09")
    code.edit("lab/negatives/pruned.py", '"pruned/1"', '"pruned/2"')
    second = code.keys(tmp_path / "zoo")
    assert all(second[name] != first[name] for name in ("scan", "detect", "purify"))
    assert (second["band"], second["ran"]) == ("none", 9)
    changed = {name for name, one in first["zoo"].items() if second["zoo"][name] != one}
    by_method = {name for name in first["zoo"] if re.search("badnets|pruned", name)}
    assert changed == by_method - {
        "nano-rn badnets poison_rate=0.02",
        "nano-vit badnets poison_rate=0.02",
    }


def test_drawings_are_in_the_key_of_scans_that_are_shown_them(monkeypatch: pytest.MonkeyPatch):
    before = scan(), scan("photos:0123")
    monkeypatch.setattr(null_band, "data_digest", lambda patterns: "other drawings")
    assert (scan() == before[0], scan("photos:0123") == before[1]) == (False, True)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.what)
def test_a_method_is_told_by_its_id_and_all_its_settings(folder: MethodFolder[Any]):
    for name in folder.names():
        method = folder.build(name)
        assert name_of(method) == name
        told = {digest_of(method)}
        for field in dataclasses.fields(method):
            other = copy.copy(method)  # as it is: not every value would be accepted
            object.__setattr__(other, field.name, "another")
            told.add(digest_of(other))
        assert len(told) == len(dataclasses.fields(method)) + 1
        assert digest_of(folder.build(name)) in told


def test_ids_are_declared_once():
    ids = [type(folder.build(name)).ID for folder in FOLDERS for name in folder.names()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9_]+/[1-9][0-9]*", each) for each in ids)


def test_a_setting_of_a_method_inside_counts_and_how_a_number_is_written_not():
    detector: Any = profile("standard").detector
    deeper = replace(detector, targeted=replace(detector.targeted, batch=17))
    fewer = replace(detector, families=detector.families[1:])
    assert len({digest_of(each) for each in (detector, deeper, fewer)}) == 3
    one, same = (ATTACKS.build("badnets", {"poison_rate": value}) for value in (1, 1.0))
    assert digest_of(one) == digest_of(same)
    with pytest.raises(TypeError):
        digest_of([object()])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(keys(Path(sys.argv[1]))))
