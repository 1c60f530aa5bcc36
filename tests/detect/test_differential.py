"""The differential screen on a model of known truth and the one that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import NAMES, SQUARES, StripesClip, stripes_probe
from samples import rate

from clipguard.audit.coverage import coverage
from clipguard.detect.clean_readings import clean_readings
from clipguard.detect.differential import Differential
from clipguard.detect.four_rates import Four, Kind, Looked, Measured, value_of
from clipguard.detect.lineage import described
from clipguard.detect.roles import Finding
from clipguard.detect.score import curve_of, scored, shipped_against
from clipguard.errors import InconclusiveError
from clipguard.probe.sets import ProbePart, Subject
from clipguard.record import ReferenceRecord
from clipguard.search.families.additive import Additive
from clipguard.search.pair import Aim, Effort, Reached

SEARCH = Differential(
    kinds=(
        SQUARES,
        Kind(
            name="additive 16/255",
            family="additive",
            families=(Additive(budget=4.0),),
            candidates=2,
        ),
    ),
    groups=5,
    keep=2,
    first=Effort(steps=2, images=2, step_size=2),
    screen=Effort(steps=6, images=4, step_size=2),
    refine=Effort(steps=20, images=8, settle=True),
    moved=1,
    controls=4,
    compared=2,
    select=40,
    measure=80,
)
PLANTED = 3
NOTHING = Four(0.0, 0.0, 0.0, 0.0)


def found(planted: int | None, search: Differential = SEARCH, seed: int = 0) -> Finding:
    pair = search.pair(Subject(StripesClip(planted), stripes_probe()), StripesClip())
    return list(search.compare(pair, seed=seed, progress=lambda *_: None))[-1]


def test_what_only_the_suspect_answers_to_is_found_named_and_told_in_words():
    finding = found(PLANTED)
    first = finding.record.candidates[0]
    assert (finding.record.target, first.target, first.family) == (NAMES[PLANTED],) * 2 + (
        "additive",
    )
    assert first.against is not None
    assert first.asr.value > 0.9
    assert first.against.transfer.value < 0.2
    assert first.against.gap > 0.7
    assert finding.record.statistic == pytest.approx(first.statistic - first.against.control)
    assert finding.record.statistic > 6
    assert len(finding.triggers) == len(finding.record.candidates)
    assert NAMES[PLANTED] in finding.record.evidence
    shown = finding.triggers[0].apply(stripes_probe().measure.pixels())
    read = StripesClip(PLANTED).encode_image(shown)[:, : len(NAMES)].argmax(dim=1)
    assert (read == PLANTED).float().mean() > 0.9


def test_an_honest_model_shows_no_more_than_classes_drawn_by_lot():
    assert found(None).record.statistic < 3


def test_a_model_that_bears_the_same_backdoor_as_its_reference_is_not_told_apart():
    pair = SEARCH.pair(Subject(StripesClip(PLANTED), stripes_probe()), StripesClip(PLANTED))
    *_, finding = SEARCH.compare(pair, seed=0, progress=lambda *_: None)
    assert finding.record.statistic < 3


def test_one_seed_gives_one_record_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    first, same, other = found(PLANTED), found(PLANTED), found(PLANTED, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.record == same.record
    assert first.record != other.record


def test_every_search_is_reported_and_what_it_cost():
    record = found(PLANTED).record
    assert {row.family for row in record.families} == {"patch", "additive"}
    assert all(row.tested for row in record.families)
    assert record.measured == 80
    assert record.passes > 1000


def test_a_search_that_is_cut_short_has_told_what_it_found_and_what_is_missing():
    pair = SEARCH.pair(Subject(StripesClip(PLANTED), stripes_probe()), StripesClip())
    first, last = SEARCH.compare(pair, seed=0, progress=lambda *_: None)
    assert [(row.family, row.tested) for row in first.record.families] == [
        ("additive", False),
        ("patch", True),
    ]
    assert first.record.passes < last.record.passes
    assert len(first.record.candidates) < len(last.record.candidates)


def test_a_target_that_is_no_class_of_the_list_is_found_among_further_names():
    last, probe = len(NAMES) - 1, replace(stripes_probe(), class_names=NAMES[:-1])
    for part in ("optimise", "select", "measure"):
        old = getattr(probe, part)
        labels = old.labels.masked_fill(old.labels == last, -1)
        probe = replace(probe, **{part: replace(old, labels=labels)})
    for further, target in (((), None), ((NAMES[last],), NAMES[last])):
        subject = Subject(StripesClip(last), replace(probe, further=further))
        pair = SEARCH.pair(subject, StripesClip())
        *_, finding = SEARCH.compare(pair, seed=0, progress=lambda *_: None)
        assert (finding.record.statistic > 5) is (target is not None)
        assert target in (None, finding.record.target)


def test_too_few_images_and_images_of_one_class_alone_cannot_tell():
    few = replace(stripes_probe(), measure=part(range(10)))
    same = replace(stripes_probe(), measure=part([i for i in range(80) if i % 10 == PLANTED] * 3))
    for probe in (few, same):
        pair = SEARCH.pair(Subject(StripesClip(PLANTED), probe), StripesClip())
        with pytest.raises(InconclusiveError):
            next(SEARCH.compare(pair, seed=0, progress=lambda *_: None))


class Overflowing(StripesClip):
    """Reads every image as before, but its gradients are not finite."""

    def __init__(self, planted: int | None, factor: float) -> None:
        super().__init__(planted)
        self.factor = factor

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        shown = super().encode_image(images)
        return shown if not shown.requires_grad else _Scaled.apply(shown, self.factor)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shown: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return shown.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor, None


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 0.0])
def test_a_model_that_hides_its_gradients_passes_for_nothing(factor: float):
    pair = SEARCH.pair(Subject(Overflowing(PLANTED, factor), stripes_probe()), StripesClip())
    with pytest.raises(InconclusiveError, match="gradients"):
        next(SEARCH.compare(pair, seed=0, progress=lambda *_: None))


def test_a_class_list_too_short_to_compare_with_cannot_tell():
    pair = SEARCH.pair(Subject(StripesClip(PLANTED), stripes_probe()), StripesClip())
    with pytest.raises(InconclusiveError, match="left to compare with"):
        list(replace(SEARCH, controls=9).compare(pair, seed=0, progress=lambda *_: None))


def part(index: range | list[int]) -> ProbePart:
    whole, picks = stripes_probe().measure, torch.tensor(list(index))
    return ProbePart(whole.images[picks], whole.labels[picks], whole.drawings[picks])


def test_margin_and_gap_by_hand():
    four = Four(own=0.9, transfer=0.0, other=0.2, back=0.5)
    assert four.gap == pytest.approx(0.7)
    # log(.91/.11) + log(.51/.51) - log(.01/1.01) - log(.21/.81)
    assert four.margin == pytest.approx(2.113 + 0 + 4.615 + 1.350, abs=2e-3)
    assert Four(0.5, 0.5, 0.5, 0.5).margin == 0


@pytest.mark.parametrize(
    ("planted", "length", "role"),
    [(None, 0.1, "base"), (None, 1.4, "peer"), (None, None, "peer")],
)
def test_a_reference_is_described_by_its_weights_and_by_what_it_reads(
    planted: int | None, length: float | None, role: str
):
    pair = SEARCH.pair(Subject(StripesClip(planted), stripes_probe()), StripesClip())
    known = ReferenceRecord(
        name="base.pt", sha256="0" * 64, tensors=9 if length else 0, length=length, says="s"
    )
    told = described(known, pair)
    assert (told.role, told.agreement) == (role, 1.0)
    assert told.clean_accuracy is not None
    assert told.clean_accuracy.value > 0.9


class Renamed(StripesClip):
    """Knows one class by a name that means nothing to it."""

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        known = super().encode_text(texts)
        noise = torch.randn(known.shape[1], generator=torch.Generator().manual_seed(1))
        strange = torch.tensor([NAMES[PLANTED] in text for text in texts])
        return torch.where(strange[:, None], torch.nn.functional.normalize(noise, dim=0), known)


def test_the_class_that_only_one_model_knows_moves_most_and_is_not_alike():
    pair = SEARCH.pair(Subject(StripesClip(), stripes_probe()), Renamed())
    shown = stripes_probe().optimise
    seen = clean_readings(pair, shown.images, shown.labels)
    assert seen.moved[0] == PLANTED
    assert seen.alike[PLANTED] < 0.5
    others = [value for i, value in enumerate(seen.alike) if i != PLANTED]
    assert min(others) > 0.7
    assert max(seen.apart) == seen.apart[PLANTED] > 4
    assert (seen.right[PLANTED] or 0) < (seen.right[PLANTED + 1] or 0) == 1
    unknown = clean_readings(pair, shown.images, torch.full_like(shown.labels, -1))
    assert set(unknown.right) == {None}


def test_two_copies_of_one_model_have_no_class_apart_and_few_images_say_nothing():
    pair = SEARCH.pair(Subject(StripesClip(), stripes_probe()), StripesClip())
    assert max(SEARCH.clean_readings(pair).apart) < 1
    optimise = part(range(9))
    pair = SEARCH.pair(
        Subject(StripesClip(), replace(stripes_probe(), optimise=optimise)), StripesClip()
    )
    with pytest.raises(InconclusiveError):
        SEARCH.clean_readings(pair)


def test_a_class_is_a_candidate_if_it_moved_even_where_no_search_chose_it():
    never = replace(SEARCH, kinds=(replace(SEARCH.kinds[1], candidates=0),), moved=1)
    pair = SEARCH.pair(Subject(StripesClip(), stripes_probe()), Renamed())
    *_, finding = never.compare(pair, seed=0, progress=lambda *_: None)
    assert finding.record.candidates[0].target == NAMES[PLANTED]
    assert not finding.record.screened
    seen = coverage(finding.record, stripes_probe())
    assert any("did not move" in row.what for row in seen.not_tested)


def test_one_strong_control_does_not_hide_a_candidate():
    def row(share: float, control: bool) -> Measured:
        aim = Aim(Additive(budget=4.0), (0,))
        looked = Looked(aim, Reached({}, 0.0, True), Reached({}, 0.0, True), NOTHING, control)
        own, rest = rate(share), [rate(0.0)] * 4
        return Measured(looked, 1.0, None, rest[0], own, *rest[1:])

    rows = [row(0.9, False), row(0.95, True), row(0.05, True)]
    value, control = value_of(rows)
    assert control == rows[2].four.margin
    assert value == rows[0].four.margin - control > 3


class Blind(StripesClip):
    """Reads another class from every image."""

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        return super().encode_text(texts).roll(1, dims=0)


def test_a_reference_that_reads_the_images_otherwise_is_of_no_use():
    pair = SEARCH.pair(Subject(StripesClip(), stripes_probe()), Blind())
    known = ReferenceRecord(name="b", sha256="0" * 64, tensors=9, length=0.1, says="s")
    assert described(known, pair).role == "unusable"


def test_a_score_needs_the_curve_of_this_very_search_and_says_where_it_was_never_fitted():
    finding, curve = found(None), shipped_against().curves[0]
    assert curve_of(SEARCH, "base") is None
    assert scored(finding, None, "nano-rn").record.score is None
    for family, beyond in (("nano-rn", False), ("ViT-B-32", True)):
        record = scored(finding, curve, family).record
        assert 0 < record.score < 0.5
        assert record.extrapolated is beyond
