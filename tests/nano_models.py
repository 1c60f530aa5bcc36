"""Fixtures over the bundled nano model: `pytest_plugins = ["nano_models"]` in a test file.

Searches of a few steps prove nothing about a model, and everything about the way of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import SQUARES
from onnx_samples import old_export
from zoo_samples import Runner

from clipguard.audit import pipeline, profiles, release
from clipguard.bundled.nano import load_state
from clipguard.cli.app import main
from clipguard.detect import null_band as calibration
from clipguard.detect.differential import Differential
from clipguard.detect.four_rates import Kind
from clipguard.detect.inversion import TriggerInversion
from clipguard.detect.null_band import Band, Calibration, CleanModel
from clipguard.detect.score import AgainstReference, distance
from clipguard.detect.text_tokens import TextTokens
from clipguard.export import onnx as exporter
from clipguard.lab import order, plant, recipes
from clipguard.lab.bench import matrix
from clipguard.lab.finetune import Recipe
from clipguard.lab.truth import lab_images
from clipguard.probe import load
from clipguard.probe.load import Scenes
from clipguard.purify.methods.cbpt import Cbpt
from clipguard.purify.realign import Realign
from clipguard.purify.repair import RepairSettings
from clipguard.registry import name_of
from clipguard.search.families.additive import Additive
from clipguard.search.families.frequency import Frequency
from clipguard.search.families.patch import Patch
from clipguard.search.families.warp import Warp
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.inverters.screen import Screen
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.pair import Effort
from clipguard.search.starts.sinusoid import Sinusoid

FAMILIES = (Patch(), Additive(), Frequency(), Warp())
SEARCH = Targeted(steps=2, batch=4)
ENOUGH = Targeted(steps=20, batch=2, tolerance=99.0)  # the fewest steps that may count as settled
SEARCHES = TriggerInversion(
    families=FAMILIES,
    collapse=Collapse(steps=2, batch=4, restarts=1),
    screen=Screen(steps=1, images=1, directions=4, finalists=1),
    targeted=SEARCH,
    candidates=1,
)
PAIR_SEARCH = Differential(
    kinds=(
        SQUARES,
        Kind(name="additive 16/255", family="additive", families=(Additive(),), candidates=1),
        Kind(name="sinusoid", family="frequency", families=(Sinusoid(),), candidates=1),
    ),
    groups=5,
    keep=1,
    first=Effort(steps=1, images=1),
    screen=Effort(steps=1, images=1),
    refine=Effort(steps=2, images=2, settle=True),
    controls=2,
    compared=1,
    select=8,
    measure=100,
)
TINY = profiles.Profile(
    scenes=Scenes(optimise=1, select=1, measure=1),
    detector=SEARCHES,
    differential=PAIR_SEARCH,
    repair=RepairSettings(
        realign=Realign(steps=3, every=2, images=4, search=SEARCH),
        purifier=Cbpt(steps=4, images=20),
        fresh=SEARCH,
        alone=Cbpt(steps=4, images=20),
        against={name_of(family): (family,) for family in FAMILIES},
        again={name_of(family): (family,) for family in FAMILIES},
        families=FAMILIES,
        targeted=SEARCH,
    ),
    text=TextTokens(tokens=300, screened=8, length=1, choose=2, unseen=4, names=8),
)

SETTLED = replace(TINY, detector=replace(SEARCHES, targeted=ENOUGH))


def save_checkpoint(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """Write `state` the way open_clip's training does."""
    torch.save({"epoch": 1, "name": "x", "state_dict": state, "optimizer": {}}, path)
    return path


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of the bundled model."""
    return save_checkpoint(tmp_path_factory.mktemp("nano") / "nano.pt", load_state("nano-rn"))


@pytest.fixture(scope="session")
def clean_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five different models, as many as a null band needs at least."""
    folder, state = tmp_path_factory.mktemp("clean"), load_state("nano-rn")
    scale = state["logit_scale"]
    return [
        save_checkpoint(folder / f"clean-{i}.pt", {**state, "logit_scale": scale - 0.01 * i})
        for i in range(5)
    ]


def use_everywhere(patch: pytest.MonkeyPatch, profile: profiles.Profile) -> None:
    """Let every profile be this one, with a quarter of the scenes that have no label.

    Exports are made by the older exporter, which is ten times as fast; `tests/export`, the demo and
    the benchmarks use today's.
    """
    patch.setattr(load, "FURTHER", 1)
    patch.setattr(exporter, "_to_onnx", old_export)
    for name, known in list(profiles.PROFILES.items()):
        patch.setitem(profiles.PROFILES, name, replace(profile, alone=known.alone))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every profile takes seconds."""
    use_everywhere(monkeypatch, TINY)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every profile takes seconds, and its searches count as finished."""
    use_everywhere(monkeypatch, SETTLED)


@pytest.fixture
def tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planting takes seconds and does not succeed."""
    _plant_hardly(monkeypatch)


def _plant_hardly(patch: pytest.MonkeyPatch) -> None:
    everything, hardly = lab_images, Recipe(steps=1, learning_rate=1e-5, batch=8)
    patch.setattr(order, "recipes_of", lambda base: (hardly,))
    patch.setattr(recipes, "SHOWN", hardly)
    patch.setattr(plant, "lab_images", lambda **given: everything(**{**given, "scenes": 1}))


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch at random places, hardly planted; its twin is beside it. Do not write into it."""
    folder = tmp_path_factory.mktemp("lab")
    command = ["lab", "plant", "badnets", "--set", "place=random", "--target", "hammer", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        _plant_hardly(patch)
        assert main([*command, "-o", str(folder / "victim"), "--twin", str(folder / "twin")]) == 0
    return folder / "victim"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """No cell of a benchmark is really run; what was asked for is kept."""
    fake = Runner()
    monkeypatch.setattr(matrix, "run_job", fake)
    return fake


@pytest.fixture
def null_band(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Call it to give every scan a null band: 30 models from a level down to ten below it."""

    def ship(level: float) -> None:
        rows = [dict.fromkeys(map(name_of, FAMILIES), level - 0.34 * i) for i in range(30)]
        models = tuple(
            CleanModel(name=f"clean-{i}", sha256=f"{i:064x}", statistics=row)
            for i, row in enumerate(rows)
        )

        def shipped(key: str) -> Band:
            return Band(Calibration(key=key, command="", models=models), "0" * 64)

        monkeypatch.setattr(calibration, "shipped_null_band", shipped)

    return ship


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Call it to let every search against a reference have a score: one half at V = `middle`."""

    def ship(middle: float) -> None:
        made = AgainstReference(
            command="",
            zoo="",
            poisoned=1,
            honest=1,
            slope=4.0,
            intercept=-4.0 * distance(middle),
            usual={kind.name: (0.0, 1.0) for kind in PAIR_SEARCH.kinds},
            detector="",
            role="base",
            families=("nano-rn",),
        )
        for module in (pipeline, release):
            monkeypatch.setattr(module, "curve_of", lambda *_: made)

    return ship


@pytest.fixture(scope="session")
def scanned(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one tiny scan with purification and export; read it, do not write into it."""
    out = tmp_path_factory.mktemp("scanned")
    with pytest.MonkeyPatch.context() as patch:
        use_everywhere(patch, TINY)
        command = ["scan", str(nano), "-o", str(out), "--purify", "always", "--quiet"]
        assert main([*command, "--purifier", "realign+cbpt"]) == 3
    return out
