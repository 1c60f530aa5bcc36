"""The descent that every gradient inverter runs."""

import math
from dataclasses import replace

import pytest
import torch
from fakes import NAMES, StripesClip, Untouched, generator, looks, sealed, stripes_probe
from torch import Tensor
from torch.nn import functional

from clipguard.probe.rates import embed
from clipguard.search.descent import collapse_loss, descend, settled
from clipguard.search.families import FAMILIES
from clipguard.search.families.additive import Additive
from clipguard.search.families.patch import Patch
from clipguard.search.roles import Search

TARGET = torch.eye(len(NAMES) + 2)[4]


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_collapse_loss_worked_by_hand(temperature: float):
    # Two images gather at x, away from the clean image at y; the first one's own class is x too.
    x, y = torch.eye(2)
    found = collapse_loss(torch.stack([x, x]), y[None], torch.stack([x, y]), temperature).item()
    near = math.exp(1 / temperature)  # and what is orthogonal counts exp(0) = 1
    first, second = math.log((near + 1 + near) / near), math.log((near + 1 + 1) / near)
    assert found == pytest.approx((first + second) / 2, rel=1e-5)


def test_triggered_images_that_gather_away_from_clean_ones_cost_least():
    clean, own = functional.normalize(torch.randn(2, 6, 8, generator=generator(1)), dim=-1)
    gathered = functional.normalize(-clean.mean(dim=0, keepdim=True), dim=1).expand(6, 8)
    assert collapse_loss(gathered, clean, own, 0.1) < collapse_loss(clean, clean, own, 0.1) / 2


def aimed(features: Tensor, index: Tensor) -> Tensor:
    return -(features @ TARGET).mean()


def search(model: StripesClip) -> Search:
    return Search(model, stripes_probe(), torch.eye(len(NAMES), len(NAMES) + 2))


# The fake has patterns at fixed places: a patch that moves averages out, a warp draws none.
@pytest.mark.parametrize("family", sorted({*FAMILIES.names()} - {"moving_patch", "warp"}))
def test_a_descent_beats_its_own_start_and_leaves_the_model_alone(family: str):
    model, searched = StripesClip(), FAMILIES.build(family)
    untouched = Untouched(model)
    found, losses = descend(
        search(model), searched, aimed, steps=40, batch=40, generator=generator()
    )
    untouched.check()
    assert len(losses) == 40
    started = searched.trigger(searched.start(model.image_size, generator=generator()), 1.0)
    part = stripes_probe().optimise
    end, start = (embed(model, part, t.apply) @ TARGET for t in (found, started))
    assert end.mean() > start.mean() + 0.05


def test_one_seed_gives_one_trigger_and_another_seed_another():
    def found(seed: int) -> tuple[Tensor, list[float]]:
        draws = generator(seed)
        made = descend(search(StripesClip()), Additive(), aimed, steps=5, batch=16, generator=draws)
        return looks(made[0]), made[1]

    (first, losses), (again, same), (other, _) = found(1), found(1), found(2)
    assert torch.equal(first, again)
    assert losses == same
    assert not torch.equal(first, other)


def test_only_the_optimise_part_is_looked_at():
    probe = sealed(sealed(stripes_probe(), "select"), "measure")
    seen: list[Tensor] = []

    def objective(features: Tensor, index: Tensor) -> Tensor:
        seen.append(index)
        return aimed(features, index)

    wanted = replace(search(StripesClip()), probe=probe)
    descend(wanted, Patch(), objective, steps=20, batch=16, generator=generator())
    assert all(len(index) == len(index.unique()) == 16 for index in seen)
    assert torch.cat(seen).max() < len(probe.optimise)


def test_the_budget_falls_to_its_final_value_and_the_returned_trigger_has_it():
    asked: list[float] = []

    class Family(Additive):
        def trigger(self, parameters, progress: float):
            asked.append(progress)
            return super().trigger(parameters, progress)

    searched = search(StripesClip())
    trigger, _ = descend(searched, Family(), aimed, steps=4, batch=8, generator=generator())
    assert asked == [0, 0.25, 0.5, 0.75, 1]
    assert not any(tensor.requires_grad for tensor in trigger.tensors.values())


FALLING = [10.0 - 0.1 * i for i in range(50)]  # the last five steps gained 0.5


@pytest.mark.parametrize(
    ("losses", "tolerance", "wanted"),
    [
        (FALLING, 0.1, False),
        (FALLING, 0.6, True),
        ([3.0] * 50, 0.01, True),
        (FALLING[:40] + [6.0] * 10, 0.01, True),
        (FALLING[::-1], 0.01, True),
        ([1.0] * 19, 1e9, False),
        ([], 1e9, False),
        ([1.0] * 40 + [math.nan], 0.1, False),
        ([1.0] * 40 + [math.inf], 0.1, False),
    ],
)
def test_a_search_has_settled_when_its_last_tenth_gained_little(losses, tolerance, wanted):
    assert settled(losses, tolerance=tolerance) is wanted


def test_the_noise_of_single_batches_is_not_taken_for_a_gain():
    noise = torch.randn(20, 100, generator=generator()).tolist()
    assert all(settled([3.0 + value for value in row], tolerance=0.1) for row in noise)
