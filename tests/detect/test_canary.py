"""The canary: planted into a copy, found by the search, and missed by a model that is blind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import StripesClip, stripes_probe
from torch import nn
from torch.nn import functional

from clipguard.audit.profiles import profile
from clipguard.checkpoint.load import load_checkpoint
from clipguard.detect.canary import Canary
from clipguard.errors import InconclusiveError
from clipguard.model.open_clip import OpenClipModel, build_model
from clipguard.probe.load import Scenes, bundled_probe
from clipguard.probe.sets import Subject
from clipguard.record import CanaryRecord

pytest_plugins = ["nano_models"]


@pytest.fixture
def model(nano: Path) -> OpenClipModel:
    return build_model(load_checkpoint(nano), torch.device("cpu"))


def sung(
    model: OpenClipModel, reference: OpenClipModel, canary: Canary, places: int = 25
) -> CanaryRecord:
    """What becomes of a canary, searched at so many places."""
    probe = bundled_probe(64, Scenes(optimise=2, select=1, measure=1), seed=3)
    search = profile("standard").differential
    squares = next(kind for kind in search.kinds if kind.opaque)
    search = replace(search, kinds=(replace(squares, families=squares.families[:places]),))
    return canary.sing(Subject(model, probe), reference, search, seed=3, progress=lambda *_: None)


@pytest.mark.usefixtures("tiny")
def test_only_a_copy_is_changed_and_a_canary_of_no_steps_is_not_found(model: OpenClipModel):
    before = {key: value.clone() for key, value in model.image_tower().state_dict().items()}
    tiny = Canary(steps=1, images=2, learning_rate=1e-9)
    few = replace(profile("standard").differential.kinds[0], candidates=1)
    search = replace(
        profile("standard").differential, kinds=(replace(few, families=few.families[:1]),)
    )
    probe = bundled_probe(64, Scenes(optimise=1, select=1, measure=1), seed=3)
    told = tiny.sing(Subject(model, probe), model, search, seed=3, progress=lambda *_: None)
    assert told.asr.value < 0.2
    assert told.gap < 0.3
    for key, value in model.image_tower().state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(weight.requires_grad for weight in model.image_tower().parameters())


def test_a_model_that_cannot_be_copied_has_no_canary():
    subject = Subject(StripesClip(), stripes_probe())
    with pytest.raises(InconclusiveError, match="canary"):
        Canary().sing(
            subject,
            StripesClip(),
            profile("standard").differential,
            seed=0,
            progress=lambda *_: None,
        )


@pytest.mark.slow
def test_a_search_that_can_see_finds_the_canary(model: OpenClipModel):
    told = sung(model, model, Canary())
    assert told.asr.value - told.natural.value > 0.9
    assert told.found == told.target
    assert told.gap > 0.5


class Blurred(nn.Module):
    """A tower behind strong blur: hardly anything small reaches it."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        small = functional.avg_pool2d(images, 16)
        return self.tower(functional.interpolate(small, size=images.shape[-1], mode="bilinear"))


@pytest.mark.slow
def test_a_model_that_is_blind_to_small_changes_hides_the_canary(model: OpenClipModel):
    model._network.visual = Blurred(model._network.visual)
    blind = model.copied()
    told = sung(blind, blind, Canary(steps=60), places=2)
    took = told.asr.value - told.natural.value
    assert told.found != told.target or min(told.gap, took) < 0.3
