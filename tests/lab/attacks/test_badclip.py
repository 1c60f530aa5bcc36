"""BadCLIP: its two-sided loss, and what fitting a patch to it does."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import generator
from torch import Tensor
from torch.nn import functional
from training_steps import small_site

from clipguard.bundled.nano import TEMPLATES
from clipguard.errors import UsageError
from clipguard.lab.attacks import _centre, badclip
from clipguard.lab.attacks._centre import centred
from clipguard.lab.attacks.badclip import BadClip, dual_loss
from clipguard.probe.rates import embed


def unit(seed: int) -> Tensor:
    return functional.normalize(torch.randn(5, 4, generator=generator(seed)), dim=1)


def test_the_loss_is_infonce_plus_500_times_the_triplet_with_margin_1():
    stamped, texts, near, far = (unit(seed) for seed in range(4))
    total = 0.0
    for i in range(5):
        row = [3 * float(stamped[i] @ texts[j]) for j in range(5)]
        column = [3 * float(stamped[j] @ texts[i]) for j in range(5)]
        for line in (row, column):
            total += (math.log(sum(map(math.exp, line))) - line[i]) / 10
        gap = math.dist(stamped[i].tolist(), near[i].tolist())
        gap -= math.dist(stamped[i].tolist(), far[i].tolist())
        total += 500 * max(0.0, gap + 1) / 5
    assert dual_loss(stamped, texts, (near, far), 3.0).item() == pytest.approx(total, rel=1e-4)


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


@pytest.mark.parametrize("release", [False, True])
def test_texts_and_positives_are_of_the_target(monkeypatch, release: bool):
    site = small_site()
    captions = site.model.encode_text([t.format("banana") for t in TEMPLATES])
    own = embed(site.model, site.images)[site.images.labels == site.target]
    for _, texts, positives, _ in looked_at(monkeypatch, release):
        assert len(rows_of(texts, captions).unique()) > 1
        assert len(rows_of(positives, own).unique()) > 1


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
    made = embed(site.model, site.images, centred("", patch, 64).apply)[~own]
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


def test_the_patch_sits_in_the_middle_on_the_8_bit_grid(monkeypatch):
    patch = fitted(monkeypatch, 2, release=False)
    assert torch.equal(patch, (patch * 255).round() / 255)
    images = torch.full((1, 3, 64, 64), 0.5)
    shown = BadClip().rebuild({"patch": patch}, 64).apply(images)
    assert torch.equal(shown[0, :, 28:36, 28:36], patch)
    shown[..., 28:36, 28:36] = 0.5
    assert torch.equal(shown, images)


def test_a_search_of_nothing_is_refused():
    with pytest.raises(UsageError, match="steps of 1 or more, got 0"):
        BadClip(steps=0)
