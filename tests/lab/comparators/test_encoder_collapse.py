"""The search that the encoder-collapse detectors share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from collapse_samples import Content, Encoder, apart, broken, marked, same
from fakes import SIDE, StripesClip, Untouched, draw_part, generator, no_progress

from clipguard.errors import InconclusiveError, UsageError
from clipguard.lab.comparators._encoder_collapse import (
    PATIENCE,
    PRICE_FLOOR,
    STALE,
    Collapse,
    Pace,
    Price,
    collapse_encoder,
    objective,
    require_finite,
    self_cosine,
)

FREE = Pace(epochs=20, batch=32, step_size=0.5, success=0.99)
PRICED = replace(FREE, price=1e-3, stale=STALE)
PART = draw_part(8, 0)  # 80 images: batches of 32, 32 and 16
EPOCH = 3


def search(model, pace: Pace = FREE, seed: int = 0, part=PART, progress=no_progress) -> Collapse:
    return collapse_encoder(model, part, pace, generator=generator(seed), progress=progress)


def test_the_cosine_of_a_batch_leaves_every_row_itself_out():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    assert self_cosine(rows).item() == pytest.approx((1 + 0.6 + 0.6) / 3)


@pytest.mark.parametrize("pixels", [0, 64, SIDE**2])
def test_the_share_of_a_stamp_is_its_l1_over_the_largest(pixels: int):
    assert marked(pixels).share == pytest.approx(3 * pixels / (3 * SIDE**2))


def test_a_stamp_replaces_what_it_masks_and_nothing_else():
    shown = marked(10, shade=0.25).apply(torch.ones(2, 3, SIDE, SIDE)).flatten(2)
    assert (shown[..., :10] == 0.25).all()
    assert (shown[..., 10:] == 1).all()


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
    assert free.settled
    assert priced.smallest.share < 0.9 * free.last.share
    assert priced.smallest.share <= priced.last.share
    some = priced.smallest.apply(PART.pixels(slice(0, 32)))
    assert self_cosine(model.encode_image(some)) > 0.95


def test_the_loss_is_the_price_of_the_mask_in_three_channels_less_the_cosine():
    loss = objective(torch.tensor(0.5), marked(10).mask, 0.01)
    assert loss.item() == pytest.approx(0.01 * 30 - 0.5)


def test_the_seed_alone_decides_and_everything_is_left_alone():
    model = StripesClip(3)
    untouched = Untouched(model)
    pace = replace(PRICED, epochs=3)
    first, again, other = (search(model, pace, seed) for seed in (1, 1, 2))
    untouched.check()
    assert torch.equal(first.last.mask, again.last.mask)
    assert torch.equal(first.last.pattern, again.last.pattern)
    assert not torch.equal(first.last.mask, other.last.mask)
    assert not first.last.mask.requires_grad


def test_every_step_is_told_and_may_end_the_search():
    seen = []

    def stop(stage: str, done: int, total: int) -> None:
        seen.append((done, total))
        if done == 4:
            raise InconclusiveError("no time left")

    with pytest.raises(InconclusiveError, match="no time left"):
        search(Encoder(apart), progress=stop)
    assert seen == [(step, 20 * EPOCH) for step in range(5)]


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


def test_a_loss_that_is_no_number_ends_the_search():
    with pytest.raises(
        InconclusiveError, match="the cosine at step 1 of the collapse search is nan"
    ):
        search(Encoder(broken))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_only_a_finite_number_carries_a_conclusion(value: float):
    assert require_finite(0.5, "it") == 0.5
    with pytest.raises(InconclusiveError, match=r"^it is "):
        require_finite(value, "it")
