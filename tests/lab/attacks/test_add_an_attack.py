"""The page about adding an attack: its example is planted into the registry, and its test run."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import generator

import clipguard.lab.attacks
from clipguard.bundled.nano import nano_network
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.finetune import Poison, Recipe, finetune
from clipguard.lab.roles import AnyAttack
from clipguard.registry import MethodFolder

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "add-an-attack.md").read_text(encoding="utf-8")
METHOD, TEST = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAME = "frame"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MethodFolder[AnyAttack]]:
    """The attacks of the package with that of the page among them, as a file in a folder."""
    (tmp_path / f"{NAME}.py").write_text(METHOD, encoding="utf-8")
    monkeypatch.setattr(
        clipguard.lab.attacks, "__path__", [*clipguard.lab.attacks.__path__, str(tmp_path)]
    )
    importlib.invalidate_caches()
    yield ATTACKS
    sys.modules.pop(f"clipguard.lab.attacks.{NAME}", None)
    vars(clipguard.lab.attacks).pop(NAME, None)


def test_the_test_on_the_page_passes_and_is_more_than_one(added: MethodFolder[AnyAttack]):
    names: dict[str, Any] = {}
    exec(compile(TEST, "add-an-attack.md", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) > 1
    for test in tests:
        test()


def test_the_lab_can_train_with_it(added: MethodFolder[AnyAttack]):
    attack = added.build(NAME, {"width": 20})
    poison = Poison(attack, attack.trigger(64, generator=generator()), "banana")
    recipe, base = Recipe(steps=1, batch=8), nano_network("nano-rn")
    made = finetune(base, recipe, poison, seed=0, progress=lambda *told: None)
    clean = finetune(base, recipe, None, seed=0, progress=lambda *told: None)
    assert not torch.equal(made.visual.conv1.weight, clean.visual.conv1.weight)
