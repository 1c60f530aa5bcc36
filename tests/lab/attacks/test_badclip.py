"""BadCLIP: its two-sided loss, and what fitting a patch to it does."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import generator
from torch import Tensor
from training_steps import small_site

from clipguard.lab.attacks import _centre, badclip
from clipguard.lab.attacks.badclip import BadClip, dual_loss
from clipguard.probe.rates import embed


def test_the_loss_is_infonce_plus_500_times_the_triplet_with_margin_1():
    rows = torch.eye(4)
    others = rows.roll(1, dims=0)  # each at a distance of the root of 2
    wanted = {
        (rows, rows, others, 0.0): math.log(4),
        (rows, rows, rows, 50.0): 500,
        (others, others, rows, 50.0): 50 + 500 * (math.sqrt(2) + 1),
    }
    for (texts, near, far, scale), loss in wanted.items():
        found = dual_loss(rows, texts, (near, far), scale).item()
        assert found == pytest.approx(loss, rel=1e-4)


def looked_at(monkeypatch: pytest.MonkeyPatch, release: bool) -> list[tuple[Tensor, ...]]:
    """What the loss gets in two steps: stamped, texts, positives, negatives."""
    seen: list[tuple[Tensor, ...]] = []

    def look(stamped: Tensor, texts: Tensor, anchors: tuple[Tensor, Tensor], _: float) -> Tensor:
        seen.append((stamped, texts, *anchors))
        return stamped.mean()

    monkeypatch.setattr(badclip, "dual_loss", look)
    monkeypatch.setattr(_centre, "BATCH", 12)
    BadClip(steps=2, release=release).optimise(small_site(), generator=generator())
    return seen


def rows_of(rows: Tensor, pool: Tensor) -> Tensor:
    """For each row, which of the pool it is; fails where it is none of them."""
    gaps = torch.cdist(rows, pool)
    assert (gaps.amin(dim=1) < 1e-3).all()
    return gaps.argmin(dim=1)


def test_negatives_are_the_same_images_without_the_patch(monkeypatch):
    site = small_site()
    clean = embed(site.model, site.images)
    for stamped, _, _, negatives in looked_at(monkeypatch, release=False):
        rows = rows_of(negatives, clean)
        assert len(rows.unique()) == 12
        assert (site.images.labels[rows] != site.target).all()
        own = (stamped * negatives).sum(dim=1)
        assert (own > (stamped @ negatives.T).mean(dim=1)).float().mean() > 0.8


def test_as_released_negatives_are_the_stamped_images_in_another_order(monkeypatch):
    for stamped, _, _, negatives in looked_at(monkeypatch, release=True):
        order = rows_of(negatives, stamped.detach())
        assert sorted(order.tolist()) == list(range(12))
        assert order.tolist() != list(range(12))
        assert not negatives.requires_grad


def losses(patch: Tensor) -> tuple[float, float]:
    """Triplet loss of all images (mean over positives), and cosine with images of the target."""
    site = small_site()
    clean, own = embed(site.model, site.images), site.images.labels == site.target
    made = embed(site.model, site.images, BadClip().rebuild({"patch": patch}, 64).apply)[~own]
    away = (made - clean[~own]).norm(dim=1, keepdim=True)
    triplet = (torch.cdist(made, clean[own]) - away + 1).clamp(min=0).mean()
    return triplet.item(), (made @ clean[own].T).mean().item()


def fitted(monkeypatch: pytest.MonkeyPatch, steps: int, release: bool) -> Tensor:
    monkeypatch.setattr(_centre, "BATCH", 16)
    made = BadClip(steps=steps, release=release).optimise(small_site(), generator=generator())
    return made["patch"]


def test_steps_lower_the_triplet_loss_over_all_images(monkeypatch):
    first, last = (losses(fitted(monkeypatch, steps, release=False))[0] for steps in (1, 12))
    assert last < first - 0.05


def test_as_released_steps_bring_stamped_images_nearer_to_those_of_the_target(monkeypatch):
    first, last = (losses(fitted(monkeypatch, steps, release=True))[1] for steps in (1, 12))
    assert last > first + 0.01
