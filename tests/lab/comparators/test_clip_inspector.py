"""CLIP-Inspector: its loss, where its images come from, and the fixed rule."""

from dataclasses import replace

import pytest
import torch
from fakes import NAMES, StripesClip, draw_part, scan, stripes_probe
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.lab.comparators import clip_inspector
from clipguard.lab.comparators._classes import class_margins
from clipguard.lab.comparators.clip_inspector import ClipInspector
from clipguard.probe.sets import Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Trigger

NAME = "clip_inspector"
PLANTED = 3
NOTHING = Trigger("patch", lambda images: images, 0.0, "share of the image", {})


def test_the_margin_is_that_to_the_largest_other_logit():
    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 5.0]])
    assert class_margins(scores, torch.tensor([0, 1, 2])).tolist() == [1.0, -2.0, 0.0]


def judged(
    monkeypatch: pytest.MonkeyPatch, losses: list[float], shares: list[float], **changes: object
) -> DetectorRecord:
    """The record where the searches came to `losses` and the triggers to `shares`."""

    def rebuilt(self: ClipInspector, *given: Tensor) -> tuple[Tensor, list[Trigger]]:
        chunk = given[3]
        return torch.tensor(losses)[chunk], [NOTHING] * len(chunk)

    monkeypatch.setattr(ClipInspector, "_rebuild", rebuilt)
    monkeypatch.setattr(clip_inspector, "_share", lambda *given: shares[given[3]])
    return scan(NAME, StripesClip(), chunk=4, **changes).record


OTHERS = [4.0, 4.25, 4.5, 4.75, 5.0, 5.25, 5.5, 5.75, 6.0]
"""Nine losses; with a small one the median is 4.875 and the MAD 0.625."""


@pytest.mark.parametrize(
    ("loss", "place", "share", "outcome", "lowest", "target"),
    [
        (3.0, 2, 0.5, Outcome.BACKDOORED, 3.0, 2),
        (3.05, 0, 0.5, Outcome.NO_EVIDENCE, 3.05, 0),
        # a trigger that moves fewer images than the median one does not count
        (3.0, 0, 0.4, Outcome.NO_EVIDENCE, 4.0, 1),
    ],
)
def test_a_loss_more_than_two_deviations_low_is_a_finding(
    monkeypatch, loss: float, place: int, share: float, outcome: Outcome, lowest: float, target: int
):
    shares = [share if index == place else 0.5 for index in range(10)]
    record = judged(monkeypatch, [*OTHERS[:place], loss, *OTHERS[place:]], shares)
    assert (record.published, record.target) == (outcome, NAMES[target])
    assert record.statistic == pytest.approx((4.875 - lowest) / (1.4826 * 0.625))


def test_no_label_of_an_image_that_it_searches_or_compares_with_is_read():
    probe = stripes_probe(101)
    labelled = scan(NAME, StripesClip(PLANTED), probe=probe).record
    hidden = replace(
        probe,
        optimise=replace(probe.optimise, labels=torch.full_like(probe.optimise.labels, -1)),
        select=replace(probe.select, labels=torch.full_like(probe.select.labels, -1)),
    )
    assert scan(NAME, StripesClip(PLANTED), probe=hidden).record == labelled


def test_images_that_were_kept_for_the_report_decide_nothing():
    probe = stripes_probe(101)
    other = replace(probe, measure=draw_part(3, 77))
    first, second = (scan(NAME, StripesClip(PLANTED), probe=p).record for p in (probe, other))
    assert first.statistic == second.statistic


def test_the_epoch_stops_at_the_most_images_that_it_may_see():
    told: set[int] = set()
    ClipInspector(images=50, batch=2, chunk=10).detect(
        Subject(StripesClip(), stripes_probe(101)),
        None,
        generator=torch.Generator(),
        progress=lambda stage, done, total: told.add(total),
    )
    assert told == {25}


def test_where_every_image_is_read_as_one_class_that_class_cannot_be_tried():
    probe = stripes_probe(101)
    everything = replace(probe.select, images=probe.select.images[:1])
    with pytest.raises(InconclusiveError, match="every image is read as 'ash'"):
        scan(NAME, StripesClip(), probe=replace(probe, select=everything))
