"""The search that the encoder-collapse detectors share."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from collapse_samples import Content, Encoder, apart, broken, given, marked, same
from fakes import draw_part, generator, no_progress, scan

from clipguard.errors import InconclusiveError, UsageError
from clipguard.lab.comparators import cosine_shift, decree, l2_shift
from clipguard.lab.comparators._encoder_collapse import (
    PATIENCE,
    PRICE_FLOOR,
    STALE,
    Collapse,
    Pace,
    Price,
    collapse_encoder,
    self_cosine,
)

FREE = Pace(epochs=20, batch=32, step_size=0.5, success=0.99)
PRICED = replace(FREE, price=1e-3, stale=STALE)
PART = draw_part(8, 0)  # 80 images: batches of 32, 32 and 16
EPOCH = 3


def search(model, pace: Pace = FREE, part=PART) -> Collapse:
    return collapse_encoder(model, part, pace, generator=generator(), progress=no_progress)


def test_the_cosine_of_a_batch_leaves_every_row_itself_out():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    assert self_cosine(rows).item() == pytest.approx((1 + 0.6 + 0.6) / 3)


def told(price: Price, collapsed: bool, times: int) -> float:
    for _ in range(times):
        price.update(collapsed)
    return price.now


def test_the_price_moves_after_more_than_its_patience_in_a_row():
    price = Price(1e-3)
    assert told(price, True, PATIENCE) == 1e-3
    assert told(price, False, 1) == 1e-3
    assert told(price, True, PATIENCE) == 1e-3
    assert told(price, True, 1) == pytest.approx(5e-3)
    assert told(price, False, PATIENCE) == pytest.approx(5e-3)
    assert told(price, False, 1) == pytest.approx(1e-3)


def test_the_price_stays_between_its_ends_and_at_nothing():
    assert PRICE_FLOOR / 5 < told(Price(1e-3), False, 500) <= PRICE_FLOOR
    assert told(Price(1e-3), True, 500) < 1e6
    assert told(Price(0.0), True, 500) == told(Price(0.0), False, 500) == 0


def test_a_free_mask_stops_at_the_first_epoch_that_has_collapsed():
    found = search(Encoder(same))
    assert (found.settled, found.steps) == (True, EPOCH)
    assert found.cosine == pytest.approx(1)


def test_a_search_goes_on_until_no_smaller_mask_comes():
    found = search(Encoder(same), replace(FREE, stale=STALE))
    assert found.steps == EPOCH * -(-(STALE + 1) // EPOCH)  # nothing moves after the first step
    assert found.settled
    assert torch.equal(found.smallest.mask, found.last.mask)


def test_what_does_not_collapse_runs_out_of_epochs_and_has_no_smallest_mask():
    found = search(Encoder(apart), replace(PRICED, epochs=4))
    assert (found.settled, found.smallest, found.steps) == (False, None, 4 * EPOCH)
    assert found.cosine == pytest.approx(0)


def test_a_price_makes_the_mask_smaller_and_the_smallest_that_collapsed_is_kept():
    model = Encoder(Content())
    free, priced = (
        search(model, replace(FREE, epochs=60)),
        search(model, replace(PRICED, epochs=60)),
    )
    assert priced.smallest.share < 0.9 * free.last.share
    assert priced.smallest.share <= priced.last.share
    some = priced.smallest.apply(PART.pixels(slice(0, 32)))
    assert self_cosine(model.encode_image(some)) > 0.95


@pytest.mark.parametrize("count", [2, 33, 34, 64])
def test_an_image_alone_is_no_batch(count: int):
    few = replace(PART, images=PART.images[:count])
    model = Encoder(apart)
    assert search(model, replace(FREE, epochs=1), part=few).cosine == pytest.approx(0)
    assert model.seen == (count if count % 32 != 1 else count - 1)


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(InconclusiveError, match="1 probe images to search on"):
        search(Encoder(same), part=replace(PART, images=PART.images[:1]))
    with pytest.raises(UsageError, match="got 0 and 32"):
        search(Encoder(same), replace(FREE, epochs=0))
    with pytest.raises(UsageError, match="got 20 and 1"):
        search(Encoder(same), replace(FREE, batch=1))


@pytest.mark.parametrize(
    ("module", "price", "stale"),
    [(cosine_shift, 0, 0), (decree, 1e-3, STALE), (l2_shift, 1e-3, STALE)],
)
def test_a_detector_pays_for_its_mask_and_waits_as_published(monkeypatch, module, price, stale):
    paces: list[Pace] = []

    def keep(model, images, pace, **rest):
        paces.append(pace)
        return given(marked(5), marked(5))

    monkeypatch.setattr(module, "collapse_encoder", keep)
    scan(module.METHOD.ID.partition("/")[0], Encoder(same), seed=0)
    assert (paces[0].price, paces[0].stale) == (price, stale)


@pytest.mark.parametrize("module", [cosine_shift, decree, l2_shift])
def test_images_that_cannot_be_embedded_are_no_verdict(monkeypatch, module):
    name = module.METHOD.ID.partition("/")[0]
    with pytest.raises(InconclusiveError, match="is nan"):
        scan(name, Encoder(broken), seed=0)
    monkeypatch.setattr(module, "embed", lambda *_: torch.full((3, 2), math.nan))
    with pytest.raises(InconclusiveError, match="is nan"):
        scan(name, Encoder(same), seed=0, epochs=1)
