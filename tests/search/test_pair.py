"""The same searches on two models: alike in start, images and goal; grouped by family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import NAMES, SIDE, StripesClip, stripes_probe
from torch import Tensor

from clipguard.probe.sets import Subject
from clipguard.search.families import FAMILIES
from clipguard.search.families.additive import Additive
from clipguard.search.families.patch import Patch
from clipguard.search.pair import Aim, Effort, readings, search_all
from clipguard.search.roles import TriggerFamily
from clipguard.search.sides import Pair, Side, paired
from clipguard.search.starts.place import GRID, Place
from clipguard.search.starts.sinusoid import Sinusoid

EFFORT = Effort(steps=4, images=3)
IMAGES = stripes_probe().optimise.images
STARTS: tuple[TriggerFamily, ...] = (
    *(FAMILIES.build(name) for name in FAMILIES.names()),
    Place(row=1, column=3),
    Sinusoid(periods=4.0, angle=45.0),
)


def pair(planted: int | None = None, further: tuple[str, ...] = ()) -> Pair:
    subject = Subject(StripesClip(planted), replace(stripes_probe(), further=further))
    return paired(subject, StripesClip(), least=0)


def silent() -> None:
    return None


@pytest.mark.parametrize("family", STARTS, ids=lambda family: type(family).ID)
@pytest.mark.parametrize("progress", [0.0, 0.7, 1.0])
def test_many_triggers_at_once_are_what_each_is_alone(family: TriggerFamily, progress: float):
    starts = [
        family.start(SIDE, generator=torch.Generator().manual_seed(seed)) for seed in range(3)
    ]
    together = {key: torch.stack([one[key] for one in starts]) for key in starts[0]}
    images = torch.rand(2, 3, SIDE, SIDE)
    shown = family.stamped(together, images, progress)
    assert shown.shape == (3, 2, 3, SIDE, SIDE)
    for one, row in zip(starts, shown, strict=True):
        torch.testing.assert_close(row, family.trigger(one, progress).apply(images))
    leaves = [*together.values()]
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad((shown * images).sum(), leaves))


def test_every_place_lies_in_the_image_and_together_they_reach_its_corners():
    covered = torch.zeros(SIDE, SIDE)
    for row in range(GRID):
        for column in range(GRID):
            family = Place(row=row, column=column)
            start = family.start(SIDE, generator=torch.Generator().manual_seed(0))
            black = torch.zeros(1, 3, SIDE, SIDE)
            covered += (family.trigger(start, 1.0).apply(black)[0].sum(dim=0) > 0).float()
    assert covered[0, 0] == covered[-1, -1] == 1
    assert (covered > 0).float().mean() > 0.5


def test_aims_searched_together_are_what_each_is_alone():
    side, aims = (
        pair().suspect,
        [
            Aim(Additive(), (3,)),
            Aim(Additive(), (1, 2)),
            Aim(Patch(), (3,)),
        ],
    )
    found = search_all(side, aims, IMAGES, EFFORT, seed=5, tick=silent)
    for aim, together in zip(aims, found, strict=True):
        (alone,) = search_all(side, [aim], IMAGES, EFFORT, seed=5, tick=silent)
        assert together.loss == pytest.approx(alone.loss, rel=1e-4)
        for key, value in alone.parameters.items():
            torch.testing.assert_close(together.parameters[key], value, rtol=1e-3, atol=1e-4)


def test_a_search_lowers_the_loss_and_touches_no_weights():
    side = pair().suspect
    before = [p.clone() for p in side.model.image_tower().parameters()]
    (short,) = search_all(
        side, [Aim(Additive(budget=32.0), (3,))], IMAGES, EFFORT, seed=0, tick=silent
    )
    longer = Effort(steps=40, images=8, settle=True)
    (long,) = search_all(
        side, [Aim(Additive(budget=32.0), (3,))], IMAGES, longer, seed=0, tick=silent
    )
    assert long.loss < short.loss
    for kept, parameter in zip(before, side.model.image_tower().parameters(), strict=True):
        assert torch.equal(kept, parameter)
        assert parameter.grad is None


def test_a_group_is_reached_as_soon_as_its_easiest_class():
    side, everything = pair().suspect, tuple(range(len(NAMES)))
    aims = [Aim(Additive(), everything), Aim(Additive(), (3,))]
    whole, one = search_all(side, aims, IMAGES, EFFORT, seed=0, tick=silent)
    assert whole.loss == pytest.approx(0.0, abs=1e-4)
    assert one.loss > 0.1


def test_passes_are_counted_by_kind():
    side = pair().suspect
    search_all(side, [Aim(Additive(), (3,))] * 2, IMAGES, EFFORT, seed=0, tick=silent)
    assert (side.passes.both, side.passes.forward) == (2 * 4 * 3, 0)
    with torch.no_grad():
        side.logits(torch.rand(5, 3, SIDE, SIDE))
    assert side.passes.counted == 2 * 4 * 3 + 2.5


class Larger(StripesClip):
    """Sees images of twice the side."""

    image_size = 2 * SIDE

    def encode_image(self, images: Tensor) -> Tensor:
        assert images.shape[-1] == self.image_size
        return super().encode_image(torch.nn.functional.avg_pool2d(images, 2))


def test_a_reference_of_another_size_sees_the_triggered_image_resized():
    probe = stripes_probe()
    sides = [Side(model, torch.eye(12)[:10]) for model in (StripesClip(), Larger())]
    near, far = (
        readings(
            side,
            [Aim(Additive(), (3,))],
            search_all(side, [Aim(Additive(), (3,))], IMAGES, EFFORT, seed=0, tick=silent),
            probe.select.images,
        )
        for side in sides
    )
    assert (near == far).float().mean() > 0.8


def test_further_names_may_be_targets_and_names_that_fill_the_list_may_not():
    asked = pair(further=(NAMES[2],))
    assert (len(asked.names), asked.targets) == (len(NAMES), len(NAMES))


def test_a_search_stops_where_it_is_told_to():
    def tick() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_all(pair().suspect, [Aim(Additive(), (3,))], IMAGES, EFFORT, seed=0, tick=tick)
