"""The folder is the registry."""

import dataclasses
import math
from typing import Any

import pytest
from processes import run_python

from clipguard.errors import UsageError
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.comparators import DETECTORS
from clipguard.purify.methods import PURIFIERS
from clipguard.registry import MethodFolder, require_known
from clipguard.search.families import FAMILIES
from clipguard.search.inverters import INVERTERS

FOLDERS = (ATTACKS, FAMILIES, INVERTERS, DETECTORS, PURIFIERS)


def test_a_new_file_is_a_new_method_and_an_underscore_hides_a_helper(tmp_path, monkeypatch):
    folder = tmp_path / "made_up_methods"
    folder.mkdir()
    method = (
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Wave:\n"
        "    height: float = 2.0\n"
        "METHOD = Wave\n"
    )
    for name in ("__init__", "_helper", "zebra"):
        (folder / f"{name}.py").write_text("")
    (folder / "wave.py").write_text(method)
    monkeypatch.syspath_prepend(tmp_path)
    made_up: MethodFolder[Any] = MethodFolder("made_up_methods", "made-up method")
    assert made_up.names() == ["wave", "zebra"]
    assert made_up.build("wave").height == 2.0
    assert made_up.build("wave", {"height": 3.0}).height == 3.0


def test_an_unknown_name_is_refused_with_a_suggestion_and_the_list():
    with pytest.raises(UsageError, match=r"did you mean 'badnets'\? \(known: .*badnets, blended"):
        ATTACKS.build("badnet")
    with pytest.raises(UsageError, match="'ration', did you mean 'ratio'"):
        ATTACKS.build("blended", {"ration": 0.3})
    with pytest.raises(UsageError, match=r"^no base named 'qqq' \(known: a, b\)$"):
        require_known("qqq", ["a", "b"], "base")


@pytest.mark.parametrize(
    ("name", "key", "value", "wants"),
    [
        ("badnets", "poison_rate", "abc", "badnets wants poison_rate as a number, got 'abc'"),
        ("badnets", "poison_rate", math.nan, "a number, got nan"),
        ("badnets", "poison_rate", math.inf, "a number, got inf"),
        ("badnets", "poison_rate", True, "a number, got True"),
        ("badnets", "pattern", 5, "a text, got 5"),
        ("adaptive", "rounds", 0.5, "a whole number, got 0.5"),
        ("badclip", "release", 1, "true or false, got 1"),
    ],
)
def test_a_value_of_another_kind_is_refused(name: str, key: str, value: object, wants: str):
    with pytest.raises(UsageError, match=wants):
        ATTACKS.build(name, {key: value})
    assert ATTACKS.build("badnets", {"poison_rate": 1}).poison_rate == 1


@pytest.mark.parametrize("name", ["../badnets", "", "_helper", "os.path", "__init__"])
def test_a_name_is_never_taken_for_a_path(name: str):
    with pytest.raises(UsageError, match="no attack named"):
        ATTACKS.build(name)


def test_listing_methods_imports_neither_them_nor_torch():
    code = (
        "import sys; from clipguard.lab.attacks import ATTACKS;"
        "print(ATTACKS.names());"
        "assert 'torch' not in sys.modules, 'torch was imported';"
        "assert not [m for m in sys.modules if m.startswith('clipguard.lab.attacks.')]"
    )
    assert "badnets" in run_python("-c", code, code=0).stdout


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.what)
def test_every_method_is_a_frozen_set_of_settings_with_defaults(folder: MethodFolder[Any]):
    assert folder.names()
    for built in map(folder.build, folder.names()):
        for field in dataclasses.fields(built):
            assert field.kw_only, f"{built}.{field.name} may be given by position"
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(built, field.name, None)
