"""DRUPE: the distance between two clouds, and what it does to the triggered one."""

from __future__ import annotations

import pytest
import torch
from fakes import generator
from torch import Tensor
from torch.nn import functional
from training_steps import follow, seen_by, step_of

from clipguard.lab.attacks._encoder import encoder_loss, views
from clipguard.lab.attacks.badencoder import BadEncoder
from clipguard.lab.attacks.drupe import Drupe, sliced_distance
from clipguard.lab.roles import stamped


def drawn(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=generator(seed))


def directions(width: int, count: int = 4000) -> Tensor:
    return functional.normalize(drawn(count, width, 9))


def test_a_cloud_is_nowhere_from_itself_in_another_order_and_v_squared_from_itself_shifted():
    cloud, shift = drawn(12, 5, 0), drawn(1, 5, 1)
    again = cloud[torch.randperm(12, generator=generator(2))]
    assert sliced_distance(cloud, again, directions(5)).item() == pytest.approx(0, abs=1e-9)
    found = sliced_distance(cloud + shift, again, directions(5)).item()
    assert found == pytest.approx(shift.square().sum().item(), rel=0.05)


def test_along_a_line_it_is_the_best_assignment():
    one = torch.tensor([[1.0]])
    rows, others = torch.tensor([[3.0], [0.0], [1.0]]), torch.tensor([[2.0], [5.0], [1.0]])
    # sorted: 0, 1, 3 against 1, 2, 5
    assert sliced_distance(rows, others, one).item() == pytest.approx((1 + 1 + 4) / 3)


def test_the_objective_is_badencoders_plus_the_weighted_distance():
    attack, (one, two, three) = Drupe(weight=2.0), (step_of(Drupe()) for _ in range(3))
    plain = encoder_loss(views(one, 0.5, 8)).item()
    assert Drupe(weight=0.0).objective(two).item() == pytest.approx(plain, abs=1e-5)
    assert attack.objective(three).item() > plain + 0.1


@pytest.mark.parametrize("towards", ["clean", "target"])
def test_only_the_triggered_cloud_is_asked_to_move(towards: str, monkeypatch):
    step, attack = step_of(Drupe()), Drupe(towards=towards)
    seen = views(step, 0.5, 8)._replace()
    leaves = type(seen)(*(row.detach().requires_grad_() for row in seen))
    monkeypatch.setattr("clipguard.lab.attacks.drupe.views", lambda *_: leaves)
    monkeypatch.setattr("clipguard.lab.attacks.drupe.encoder_loss", lambda _: torch.zeros(()))
    attack.objective(step).backward()
    assert leaves.triggered.grad.abs().max() > 0
    assert all(row.grad is None for row in leaves[1:])


def test_triggered_images_end_more_spread_out_than_with_badencoder():
    width = {}
    for attack in (BadEncoder(), Drupe(weight=1.0)):
        step = step_of(attack)
        follow(attack, step, 16)
        triggered = seen_by(step.network, stamped(step.clean.images, step.plan.trigger))
        width[type(attack)] = 1 - triggered.mean(dim=0).square().sum().item()
    assert width[Drupe] > width[BadEncoder] + 0.1


def test_the_trigger_is_that_of_badencoder():
    images = torch.rand(2, 3, 64, 64, generator=generator(1))
    made, wanted = (kind().trigger(64, generator=generator()) for kind in (Drupe, BadEncoder))
    assert torch.equal(made.apply(images), wanted.apply(images))
