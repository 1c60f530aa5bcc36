"""L2 shift: how far stamped images move, in spreads of clean ones."""

from __future__ import annotations

import math

import pytest
import torch
from collapse_samples import Encoder, given, marked, part, probe, same
from fakes import SIDE, scan
from torch import nn

from clipguard.lab.comparators import l2_shift
from clipguard.lab.comparators.l2_shift import l2_quantile_shift, l2_raw_embeddings
from clipguard.model.open_clip import ImageTower
from clipguard.record import DetectorRecord, Outcome

WHITE = marked(SIDE**2)
NAME = "l2_shift"


class Tall(nn.Module):
    """One long dimension: ten times the brightness; some towers return their tokens as well."""

    def __init__(self, *, tokens: bool) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, images):
        rows = 10 * images.mean(dim=(1, 2, 3))[:, None] * torch.tensor([1.0, 0.0]) + 1
        return (rows, rows) if self.tokens else rows


class Towered(Encoder):
    """An `Encoder` with the tower that real models have."""

    def __init__(self, *, tokens: bool = False) -> None:
        self.tower = ImageTower(Tall(tokens=tokens), [0, 0, 0], [1, 1, 1])
        super().__init__(self.tower)

    def image_tower(self):
        return self.tower


def detect(model, images=None, **settings) -> DetectorRecord:
    return scan(NAME, model, probe=images, seed=0, **settings).record


def test_every_dimension_counts_in_its_own_spread():
    steps = torch.arange(101.0)
    clean = torch.stack([steps, 2 * steps.flip(0), 0.5 * steps], dim=1)
    moved = clean + torch.tensor([3 * 90.0, -4 * 180.0, 0.0])
    assert l2_quantile_shift(clean, moved, 0.05, 0.95) == pytest.approx(5)
    assert l2_quantile_shift(clean, clean, 0.05, 0.95) == 0
    assert l2_quantile_shift(clean, moved, 0.25, 0.75) == pytest.approx(9)


def test_a_dimension_that_never_changes_divides_nothing_by_zero():
    clean = torch.ones(10, 2)
    assert l2_quantile_shift(clean, clean, 0.05, 0.95) == 0
    assert math.isfinite(l2_quantile_shift(clean, clean + 1, 0.05, 0.95))


@pytest.mark.parametrize("tokens", [False, True])
def test_embeddings_are_those_before_unit_norm(tokens: bool):
    model = Towered(tokens=tokens)
    rows = l2_raw_embeddings(model, part(0, 255))
    assert torch.equal(rows, torch.tensor([[1.0, 1.0], [11.0, 1.0]]))
    stamped = l2_raw_embeddings(model, part(0, 255), WHITE.apply)
    assert torch.equal(stamped, torch.tensor([[11.0, 1.0], [11.0, 1.0]]))
    assert not model.tower.visual._forward_hooks


def test_a_tower_that_breaks_keeps_no_hook():
    model = Towered()
    with pytest.raises(ZeroDivisionError):
        l2_raw_embeddings(model, part(0), lambda images: images * (1 / 0))
    assert not model.tower.visual._forward_hooks


def test_a_model_that_shows_only_unit_embeddings_gives_those():
    assert l2_raw_embeddings(Encoder(same), part(0, 255)).norm(dim=1).tolist() == [1, 1]


def test_it_ranks_and_never_concludes(monkeypatch):
    monkeypatch.setattr(l2_shift, "collapse_encoder", lambda *_, **__: given(WHITE, marked(3)))
    shades = torch.tensor([0, 51, 102, 255])
    record = detect(Towered(), probe(*shades.tolist()), low=0.0, high=1.0)
    assert record.statistic == pytest.approx(float((1 - shades / 255).mean()), abs=1e-5)
    assert record.published is Outcome.INCONCLUSIVE
