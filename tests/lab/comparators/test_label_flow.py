"""Label flow: which class grows under one adversarial patch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fakes import (
    NAMES,
    SIDE,
    StripesClip,
    Untouched,
    generator,
    scan,
    sealed,
    stripes_probe,
)
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.lab.comparators.label_flow import LabelFlow, _shares
from clipguard.record import DetectorRecord, Outcome

NAME = "label_flow"
PLANTED = 3


class CornerClip(StripesClip):
    """Reads `PLANTED` where the lower right corner is bright or dark, else what an image shows."""

    def encode_image(self, images: Tensor) -> Tensor:
        rows = super().encode_image(images)
        odd = (images[..., -7:-2, -7:-2].mean(dim=(1, 2, 3)) - 0.5) ** 2
        towards = torch.zeros(rows.shape[1])
        towards[PLANTED] = 100.0
        return torch.nn.functional.normalize(rows + odd[:, None] * towards, dim=1)


def flow(model: StripesClip, **settings: object) -> DetectorRecord:
    return scan(NAME, model, **({"steps": 60, "step_size": 0.1} | settings)).record


def test_a_planted_corner_is_where_the_readings_go():
    model = CornerClip()
    untouched = Untouched(model)
    record = flow(model, probe=sealed(stripes_probe(101), "select"))
    untouched.check()
    assert (record.name, record.target) == (NAME, NAMES[PLANTED])
    assert record.statistic > 60
    assert flow(StripesClip()).statistic < record.statistic / 2
    assert flow(model) == record


def test_it_ranks_and_never_concludes():
    record = flow(CornerClip(), null=object())
    assert record.published is Outcome.INCONCLUSIVE
    assert (record.score, record.p_value, record.excess) == (None,) * 3
    assert record.candidates == record.families == ()


def test_the_square_has_its_share_of_the_image_and_its_place():
    patch = torch.ones(3, 5, 5)
    made = LabelFlow(margin=2 / SIDE)._stamped(torch.zeros(2, 3, SIDE, SIDE), patch)
    assert made.sum().item() == 2 * 3 * 25
    assert made[..., SIDE - 7 : SIDE - 2, SIDE - 7 : SIDE - 2].min() == 1
    found = LabelFlow(steps=20)._adversarial(
        StripesClip(), stripes_probe().optimise, generator(), lambda *news: None
    )
    assert found.shape == (3, math.isqrt(int(0.03 * SIDE**2)), math.isqrt(int(0.03 * SIDE**2)))
    assert 0 <= found.min() < found.max() <= 1


class DeafClip(StripesClip):
    """Does not see the lower right corner."""

    def encode_image(self, images: Tensor) -> Tensor:
        seen = images.clone()
        seen[..., -7:-2, -7:-2] = 0.5
        return super().encode_image(seen)


def test_no_class_is_named_where_none_grows():
    record = flow(DeafClip())
    assert (record.target, record.statistic) == (None, 0)


def test_shares_are_those_of_images_that_the_patch_was_not_made_on():
    probe = stripes_probe(101)
    one = probe.measure.labels == PLANTED
    only = replace(probe, measure=probe.measure.rows(one.nonzero().flatten()))
    record = flow(CornerClip(), probe=only)
    assert abs(record.statistic) < 1e-9  # all of them are read as it with and without the patch


class BrittleClip(StripesClip):
    """Answers NaN where the lower right corner is not grey."""

    def encode_image(self, images: Tensor) -> Tensor:
        rows = super().encode_image(images)
        odd = (images[..., -7:-2, -7:-2] - 0.5).abs().amax(dim=(1, 2, 3)) > 0.45
        return torch.where(odd[:, None], math.nan, rows)


def test_shares_of_readings():
    assert _shares(torch.tensor([2, 2, 0, 2]), 4).tolist() == [0.25, 0, 0.75, 0]


def test_what_says_nothing_is_refused():
    with pytest.raises(InconclusiveError, match="at least 20"):
        flow(StripesClip(), steps=1)
    with pytest.raises(InconclusiveError, match="2 classes"):
        flow(StripesClip(), probe=replace(stripes_probe(), class_names=NAMES[:2]))
    with pytest.raises(InconclusiveError, match="finite"):
        flow(BrittleClip())
