"""Rates of a purified head under the true trigger."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from safetensors.torch import load_file, save_file

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import class_names
from clipguard.checkpoint.inspection import sha256_of
from clipguard.errors import UsageError
from clipguard.lab import evaluate as module
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.evaluate import evaluate_classes
from clipguard.lab.truth import lab_images, truth_rates, zero_shot
from clipguard.model.roles import Repairable
from clipguard.probe.load import Scenes, bundled_probe
from clipguard.record import Rate

pytest_plugins = ["nano_models"]

TARGET = class_names().index("banana")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, nano: Path) -> Path:
    """A lab folder around the bundled model, which knows no trigger."""
    path = tmp_path_factory.mktemp("victim")
    shutil.copy(nano, path / "model.pt")
    truth = {"attack": "badnets", "settings": {}, "base": "nano-rn", "target": "banana", "seed": 3}
    (path / "victim.json").write_text(json.dumps(truth))
    keep(path, ATTACKS.build("badnets").trigger(64, generator=generator(3)).tensors)
    return path


def keep(path: Path, tensors: dict[str, torch.Tensor], **told: object) -> None:
    """Write a trigger, and what `victim.json` says of it and else."""
    save_file(tensors, path / "trigger.safetensors")
    written = {"trigger": {"sha256": sha256_of(path / "trigger.safetensors")}}
    truth = json.loads((path / "victim.json").read_text()) | written
    (path / "victim.json").write_text(json.dumps(truth | told))


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "lab_images", lambda **given: lab_images(**given | {"scenes": 1}))


@pytest.fixture(scope="module")
def classes() -> torch.Tensor:
    return zero_shot(nano_site().model)


def test_the_same_model_loses_nothing_against_itself(folder: Path, classes: torch.Tensor):
    rows = evaluate_classes(folder, folder, classes)
    assert rows.keys() == {"seen", "untuned", "held_out"}
    for row in rows.values():
        assert row["ca_loss"] == 0
        assert row["pa_ratio"] == pytest.approx(1)
        assert row["target_ca"] == row["target_ca_twin"]
        assert row["asr"] == row["asr_before"]


def test_a_head_without_the_target_class_is_told_apart(folder: Path, classes: torch.Tensor):
    bent = classes.clone()
    bent[TARGET] *= -1
    row = evaluate_classes(folder, folder, bent)["seen"]
    assert row["target_ca"] == 0 < row["target_ca_twin"]
    assert row["asr"] == 0
    assert 0 < row["ca_loss"] < 0.02


def test_untuned_drawings_are_those_that_the_scan_measured_on():
    images = lab_images(held_out=False, seed=5, scenes=1)
    drawings = images.drawings[module._seen(images, 64, 1)["untuned"]]
    probe = bundled_probe(64, Scenes(), seed=1)
    assert set(drawings.tolist()) == set(probe.measure.drawings.tolist())
    tuned = torch.cat([probe.optimise.drawings, probe.select.drawings])
    assert not torch.isin(drawings, tuned).any()


def test_untuned_follows_the_seed_of_the_scan_and_not_that_of_the_victim(
    folder: Path, classes: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    split = module._seen

    def seen(images, side, seed):
        asked.append(seed)
        return split(images, side, seed)

    monkeypatch.setattr(module, "_seen", seen)
    evaluate_classes(folder, folder, classes, seed=11)
    assert asked == [11]


def test_a_clean_model_has_nothing_to_evaluate(folder: Path, tmp_path: Path, classes: torch.Tensor):
    truth = json.loads((folder / "victim.json").read_text()) | {"attack": "none"}
    (tmp_path / "victim.json").write_text(json.dumps(truth))
    with pytest.raises(UsageError, match="no trigger to evaluate"):
        evaluate_classes(tmp_path, tmp_path, classes)


def test_a_trigger_that_the_code_draws_otherwise_now_is_not_measured(
    folder: Path, classes: torch.Tensor, tmp_path: Path
):
    shutil.copytree(folder, tmp_path / "other")
    kept = load_file(folder / "trigger.safetensors")
    changed = {key: value.flip(-1).contiguous() for key, value in kept.items()}
    keep(tmp_path / "other", changed)
    with pytest.raises(UsageError, match="is not what badnets draws here"):
        evaluate_classes(tmp_path / "other", folder, classes)


def test_no_ratio_is_told_where_the_twin_reads_no_triggered_image(
    folder: Path, classes: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    rates = truth_rates
    nothing = Rate(value=0, low=0, high=0.1, n=9)

    def blind(views, head, target):
        return rates(views, head, target).model_copy(update={"poisoned_accuracy": nothing})

    monkeypatch.setattr(module, "truth_rates", blind)
    for row in evaluate_classes(folder, folder, classes).values():
        assert "pa_ratio" not in row
        assert row["pa"] == 0


def test_the_list_that_no_tuning_saw_is_all_other_drawings_and_the_target(
    folder: Path, classes: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    few = load_artwork().names[:60]
    monkeypatch.setattr(module, "load_artwork", lambda: SimpleNamespace(names=few))
    asked, shown = [], []

    def images(**given):
        asked.append(given.get("names"))
        return lab_images(**given | {"scenes": 1})

    def views(self, images):
        shown.append(images.drawings)
        return look_at(self, images)

    look_at = module.Trial.views
    monkeypatch.setattr(module, "lab_images", images)
    monkeypatch.setattr(module.Trial, "views", views)
    tuned = torch.arange(20)  # the first drawings of the first style
    row = evaluate_classes(folder, folder, classes, tuned=tuned)["unseen"]
    (names,) = filter(None, asked)
    assert not torch.isin(shown[-1], tuned).any()
    assert len(shown[-1]) > len(names)
    assert names[-1] == "banana"
    assert {*names[:-1]} == {each[0] for each in few} - {*class_names()}
    assert row["ca_loss"] == 0
    assert "target_ca" not in row
    model = nano_site().model
    assert isinstance(model, Repairable)
    deaf = model.copied()  # the site's own is shared by all tests
    with torch.no_grad():
        dict(deaf.image_tower().named_parameters())["visual.attnpool.c_proj.weight"].neg_()
    rows = evaluate_classes(folder, folder, classes, repaired=deaf, tuned=tuned)
    assert rows["unseen"]["ca"] < 0.1 < row["ca"]


@pytest.mark.parametrize("attack", ["badnets", "badclip"])
def test_another_trigger_than_that_of_the_truth_is_not_measured(
    folder: Path, classes: torch.Tensor, tmp_path: Path, attack: str
):
    victim = tmp_path / "victim"
    shutil.copytree(folder, victim)
    keep(victim, {"patch": torch.rand(3, 8, 8, generator=generator(3))}, attack=attack)
    save_file({"patch": torch.rand(3, 8, 8)}, victim / "trigger.safetensors")
    with pytest.raises(UsageError, match="is not the one"):
        evaluate_classes(victim, folder, classes)
