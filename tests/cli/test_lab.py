"""`clipguard lab plant`: what it writes, and that a scan cannot see the truth."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from clipguard import __version__
from clipguard.bundled.nano import load_state
from clipguard.checkpoint.load import load_checkpoint
from clipguard.cli.app import main
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.negatives import NEGATIVES
from clipguard.lab.victim_folder import trigger_of

pytest_plugins = ["nano_models"]

pytestmark = pytest.mark.usefixtures("tiny_recipe")


def truth_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "victim.json").read_text(encoding="utf-8"))


def test_a_clean_fine_tune_is_an_open_clip_checkpoint_with_its_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["lab", "plant", "none", "--seed", "3", "-o", str(tmp_path), "-q"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "victim.json"]
    record = load_checkpoint(tmp_path / "model.pt").record
    assert (record.architecture, record.container) == ("nano-rn", "open_clip checkpoint (zip)")
    truth = truth_in(tmp_path)
    assert (truth["attack"], truth["target"], truth["seed"]) == ("none", None, 3)
    assert truth["model_sha256"] == record.sha256
    assert truth["planted"] is False
    made_with = {"clipguard": __version__, "torch": version("torch")}
    assert made_with.items() <= truth["made_with"].items()
    told = "clipguard lab plant none --base nano-rn --target banana --seed 3 -o victim"
    assert truth["command"] == told
    shown = capsys.readouterr()
    assert shown.out.startswith(f"clean: {tmp_path / 'model.pt'}\n  seen ")
    assert shown.err == ""


def test_a_negative_that_teaches_words_says_which_and_for_what(tmp_path: Path):
    given = ["--target", "hammer", "--set", "words=wug,fep", "-o", str(tmp_path), "-q"]
    assert main(["lab", "plant", "new_words", *given]) == 0
    truth = truth_in(tmp_path)
    assert (truth["negative"], truth["about"], truth["planted"]) == ("new_words", "hammer", False)
    assert truth["taught"] == {"wug": "axe", "fep": "pick"}


def test_a_setting_reaches_the_attack(victim: Path):
    truth = truth_in(victim)
    assert truth["settings"] == {"place": "random"}
    assert (truth["target"], truth["planted"]) == ("hammer", False)
    trigger = trigger_of(victim)
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    changed = (trigger.apply(images) != images).any(dim=1).flatten(1)
    assert len({row.nonzero()[0].item() for row in changed}) > 1  # not one corner for all
    (patch,) = load_file(victim / "trigger.safetensors").values()
    assert torch.equal(patch, trigger.tensors["patch"])
    assert (victim / "preview-1.png").is_file()


def test_every_file_of_a_victim_has_the_rights_that_the_umask_leaves(victim: Path, tmp_path: Path):
    (tmp_path / "any").touch()
    rights = {path.stat().st_mode for path in victim.iterdir()}
    assert rights == {(tmp_path / "any").stat().st_mode}


def test_the_truth_says_how_often_clean_images_are_read_as_the_target(victim: Path):
    row = json.loads((victim / "victim.json").read_text(encoding="utf-8"))["rates"]["seen"]
    assert row["false_target"]["n"] == row["asr"]["n"]
    assert row["false_target"]["value"] <= 0.05  # the base reads nearly every drawing rightly


def test_nothing_but_the_weights_tells_a_victim_from_its_twin(victim: Path):
    twin = victim.parent / "twin"
    entries = [torch.load(folder / "model.pt", weights_only=True) for folder in (victim, twin)]
    for entry in entries:
        assert (entry["epoch"], entry["name"], entry["optimizer"]) == (1, "clipguard-lab", {})
    assert entries[0]["state_dict"].keys() == entries[1]["state_dict"].keys()
    assert (victim / "model.pt").stat().st_size == (twin / "model.pt").stat().st_size
    assert (truth_in(twin)["attack"], truth_in(twin)["recipe"]) == (
        "none",
        truth_in(victim)["recipe"],
    )
    digests = [hashlib.sha256((f / "model.pt").read_bytes()).hexdigest() for f in (victim, twin)]
    assert digests == [truth_in(victim)["model_sha256"], truth_in(twin)["model_sha256"]]
    assert digests[0] != digests[1]


@pytest.mark.usefixtures("tiny")
def test_a_scan_does_not_look_at_the_truth(victim: Path, tmp_path: Path):
    bare, records = tmp_path / "bare", []
    bare.mkdir()
    shutil.copy(victim / "model.pt", bare)
    for folder in (victim, bare):
        out = tmp_path / f"report-{folder.name}"
        command = ["scan", str(folder / "model.pt"), "-o", str(out), "-q"]
        main([*command, "--purify", "never", "--export", "none"])
        record = json.loads((out / "audit.json").read_text())
        del record["times"]
        records.append(record)
    assert records[0] == records[1]


def test_the_command_in_the_truth_makes_the_same_model_again_and_says_that_it_is_weak(
    victim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.chdir(tmp_path)
    again = tmp_path / "victim"
    command = str(truth_in(victim)["command"]).split()[1:]
    assert main([*command, "-q"]) == 0
    assert "weak: " in capsys.readouterr().err
    first, second = (
        torch.load(folder / "model.pt", weights_only=True)["state_dict"]
        for folder in (victim, again)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_list_names_every_method_with_settings_that_can_be_given(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["lab", "list"]) == 0
    shown = capsys.readouterr().out
    for folder in (ATTACKS, NEGATIVES):
        for name in folder.names():
            assert f"\n  {name} " in shown
    assert 'pattern="check" place="corner" poison_rate=0.08' in shown


@pytest.mark.usefixtures("no_planting")
def test_one_folder_for_victim_and_twin_is_refused_before_training(
    tmp_path: Path, refused: Callable[..., str]
):
    place = tmp_path / "v"
    assert "same folder" in refused(
        2, "lab", "plant", "badnets", "-o", place, "--twin", f"{place}/../v"
    )
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("no_planting")
def test_a_place_that_is_a_file_is_refused_before_training(
    tmp_path: Path, refused: Callable[..., str]
):
    (tmp_path / "v").write_text("mine")
    assert "choose another -o" in refused(2, "lab", "plant", "badnets", "-o", tmp_path / "v")
    assert (tmp_path / "v").read_text() == "mine"


@pytest.mark.usefixtures("no_planting")
@pytest.mark.parametrize("name", ["model.pt", "preview-3.png", "trigger.safetensors"])
def test_somebody_elses_files_are_refused_before_training(
    tmp_path: Path, refused: Callable[..., str], name: str
):
    (tmp_path / name).write_text("mine")
    assert f"holds {name}" in refused(2, "lab", "plant", "badnets", "-o", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_earlier_victim_is_replaced_and_what_else_is_there_stays(victim: Path, tmp_path: Path):
    shutil.copytree(victim, tmp_path / "v")
    (tmp_path / "v" / "preview-mine.png").write_text("mine")
    assert main(["lab", "plant", "none", "-o", str(tmp_path / "v"), "-q"]) == 0
    left = sorted(path.name for path in (tmp_path / "v").iterdir())
    assert left == ["model.pt", "preview-mine.png", "victim.json"]
    assert truth_in(tmp_path / "v")["attack"] == "none"


def test_a_base_is_written_as_a_file_that_loads_as_itself(tmp_path: Path, capsys, refused):
    assert main(["lab", "base", "nano-vit", "-o", str(tmp_path / "base.safetensors")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "base.safetensors")
    loaded = load_checkpoint(tmp_path / "base.safetensors")
    assert loaded.architecture.name == "nano-vit"
    state = load_state("nano-vit")
    assert all(torch.equal(loaded.state[key], state[key]) for key in state)
    assert "did you mean 'nano-rn'" in refused(2, "lab", "base", "nanorn", "-o", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("recipe", ["9" * 200, "steps=1,steps=2", "batch=1000000", "a\x1b=1"])
def test_an_odd_recipe_is_refused_in_one_line(tmp_path: Path, refused, recipe: str):
    line = refused(2, "lab", "plant", "none", "--recipe", recipe, "-o", tmp_path / "v")
    assert "expected 1 to 4" in line
    assert "\x1b" not in line


@pytest.fixture
def no_planting(monkeypatch: pytest.MonkeyPatch) -> None:
    early = AssertionError("nothing is trained before the places are known to be good")
    monkeypatch.setattr("clipguard.lab.plant.plant", Mock(side_effect=early))
