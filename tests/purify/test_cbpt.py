"""CBPT (reconstruction)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from fakes import (
    CONTEXT_TOKENS,
    NAMES,
    WIDTH,
    StripesClip,
    generator,
    hum,
    no_progress,
    sealed,
    stripes_probe,
)
from torch.nn import functional

from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import ProbePart, ProbeSet, Subject
from clipguard.purify.features import Features, share_of_patches
from clipguard.purify.methods.cbpt import Cbpt, _preservation, generalised_cross_entropy
from clipguard.purify.roles import PurifiedHead
from clipguard.search.families.additive import Additive
from clipguard.search.roles import Progress, Trigger

PLANTED = 3
CLASSES = torch.eye(len(NAMES), WIDTH)
SETTINGS = {
    "steps": 300,
    "learning_rate": 2e-3,
    "images": 400,
    "consistency_weight": 8.0,
    "lent_weight": 0.1,
}


def purify(
    triggers: Sequence[Trigger] = (hum(),),
    progress: Progress = no_progress,
    probe: ProbeSet | None = None,
    **settings: float,
) -> PurifiedHead:
    return Cbpt(**SETTINGS | settings).purify(
        Subject(StripesClip(PLANTED), probe or stripes_probe()),
        triggers,
        PLANTED,
        generator=generator(),
        progress=progress,
    )


@cache
def scaled(triggered: bool = False) -> torch.Tensor:
    """(N, D) scaled features of the measure part, which a head turns into logits."""
    model = StripesClip(PLANTED)
    apply = hum().apply if triggered else None
    return model.logit_scale * embed(model, stripes_probe().measure, apply)


def accuracy(classes: torch.Tensor, triggered: bool) -> float:
    read = classify(scaled(triggered), classes)
    return (read == stripes_probe().measure.labels).float().mean().item()


def without_labels(part: ProbePart) -> ProbePart:
    return replace(part, labels=torch.full_like(part.labels, -1))


@pytest.mark.parametrize(
    ("labelled", "classes", "steps"), [(True, 256, 300), (False, 256, 300), (True, 6, 600)]
)
def test_triggered_images_are_read_as_what_they_show(labelled: bool, classes: int, steps: int):
    probe = stripes_probe()
    if not labelled:  # then as they are read
        parts = {name: without_labels(getattr(probe, name)) for name in ("optimise", "select")}
        probe = replace(probe, **parts)
    head = purify(probe=probe, classes=classes, steps=steps)
    assert accuracy(CLASSES, triggered=True) < 0.2
    assert accuracy(head.classes, triggered=True) > 0.7
    assert accuracy(head.classes, triggered=False) > 0.95


def test_the_classes_are_those_of_the_returned_context_and_progress_counts_the_steps():
    told: list[tuple[str, int, int]] = []
    sealed_probe = sealed(stripes_probe(), "measure")  # nobody looks at the measure part
    head = purify(progress=lambda *news: told.append(news), probe=sealed_probe, steps=7)
    assert head.context.shape == (len(NAMES), CONTEXT_TOKENS, WIDTH)
    torch.testing.assert_close(StripesClip().encode_context(head.context, NAMES), head.classes)
    assert head.losses.keys() == {"classification", "alignment", "consistency", "lent"}
    assert told[-7:] == [("class-wise prompts", i, 7) for i in range(7)]
    # each batch of images that is embedded tells as well, so that a budget can end it
    assert told[:-7] == [("triggered images", 0, 1)] * 4


def test_consistency_holds_the_classes_near_their_prompts():
    loose, tight = (purify(spread_consistency_weight=weight) for weight in (0.0, 1000.0))
    moved = [(1 - (head.classes * CLASSES).sum(dim=1)).mean() for head in (loose, tight)]
    assert moved[1] < moved[0] / 3


def test_patches_and_triggers_of_the_whole_image_hold_the_prompts_by_weights_of_their_own():
    patch = Trigger("patch", lambda x: x, 0.1, "share", {"pattern": torch.zeros(3, 2, 2)})
    shares = [share_of_patches(known) for known in ([patch], [patch, hum()], [hum()])]
    assert shares == [1.0, 0.5, 0.0]
    cbpt = Cbpt(consistency_weight=2.0, spread_consistency_weight=10.0)
    losses = {"consistency": torch.tensor(3.0)}
    assert [cbpt._total(losses, share).item() for share in shares] == [6.0, 18.0, 30.0]
    own, losses = Cbpt(target_consistency_weight=4.0), {"target_consistency": torch.tensor(3.0)}
    assert [own._total(losses, share).item() for share in shares] == [0.0, 6.0, 12.0]


def test_the_prompt_of_the_target_can_be_held_by_a_weight_of_its_own():
    loose, tight = (purify(target_consistency_weight=weight) for weight in (0.0, 1000.0))
    moved = [1 - (head.classes * CLASSES).sum(dim=1) for head in (loose, tight)]
    assert moved[1][PLANTED] < moved[0][PLANTED] / 3
    assert "target_consistency" in tight.losses


def test_every_drawing_is_drawn_alike_however_many_images_it_has():
    rows = functional.normalize(torch.randn(100, 6, generator=generator(1)), dim=1)
    weights = torch.cat([torch.full((90,), 1 / 90), torch.full((10,), 1 / 10)])
    cache = Features(rows, rows[None], torch.arange(100), weights)
    drawn = [cache.draw(1, generator(seed))[2].item() for seed in range(400)]
    share = sum(label >= 90 for label in drawn) / len(drawn)
    assert 0.4 < share < 0.6


def test_further_images_hold_the_readings_of_the_original_classifier():
    probe = stripes_probe()
    further = replace(probe, unlabelled=lambda: without_labels(probe.select))
    kept, free = (
        purify(probe=further, spread_consistency_weight=0.0, preservation_weight=weight)
        for weight in (50.0, 0.0)
    )
    drift = [(scaled() @ (head.classes - CLASSES).T).abs().mean() for head in (kept, free)]
    assert drift[0] < drift[1]
    assert "preservation" in kept.losses
    assert "preservation" not in free.losses


def test_one_trigger_that_works_is_enough_among_others_that_do_not():
    family = Additive()  # at random, they do nothing
    weak = [family.trigger(family.start(32, generator=generator(i)), 1.0) for i in range(2)]
    without, among = purify(weak), purify([weak[0], hum(), weak[1]])
    assert accuracy(without.classes, triggered=True) < 0.2
    assert accuracy(among.classes, triggered=True) > 0.5


def test_the_losses_worked_by_hand():
    """Two classes at right angles, logits of 0 and 2: the reading of an image is 0.881 or 0.119."""
    rows, scale = torch.eye(2), 2.0
    sure = 1 / (1 + math.exp(-scale))
    heads = scale * rows, scale * rows
    drawn = rows, rows.flip(0)[None], torch.tensor([0, 1])  # a trigger that swaps the classes
    found = Cbpt(margin=0.0, robustness=1.0, triggered_weight=0.5)._losses(heads, drawn, 0)
    assert found["classification"].item() == pytest.approx(-math.log(sure) + 0.5 * sure, rel=1e-4)
    apart = scale * (2 * sure - 1)  # KL between a reading and the swapped one
    assert found["alignment"].item() == pytest.approx(apart, rel=1e-4)
    assert _preservation(heads, drawn).item() == pytest.approx(apart, rel=1e-4)


def test_classes_lend_each_other_how_their_drawings_differ():
    """Classes 0 and 1 have two drawings each, 2 has one, 3 none; 1 differs along the last axis."""
    axes = torch.eye(6)
    rows = torch.stack([axes[0], axes[0], axes[1] + axes[5], axes[1] - axes[5], axes[2]])
    cache = Features(rows, rows[None], torch.tensor([0, 0, 1, 1, 2]), torch.ones(5))
    made, shown = cache.lent(400, axes[:4], 2, generator())
    assert set(shown.tolist()) == {0, 1, 2}
    assert 0.6 < (shown == 2).float().mean() < 0.75  # half, and a third of the rest
    alone = made[shown == 2]
    # one drawing of the target, two of the lender: stretched by the root of 2 / 1 * (1 + 1 / 1)
    heights = (alone[:, 5] / alone[:, 2]).abs().round(decimals=4)
    assert heights.unique().tolist() == [0.0, 2.0]
    assert cache.lent(50, axes[:4], 3, generator())[1].unique().tolist() == [0, 1, 2]


def test_what_still_reads_as_its_lender_is_left_out_and_one_drawing_lends_nothing():
    axes = torch.eye(3)
    rows = torch.stack([3 * axes[0], -axes[0], axes[1]])  # class 0 differs along its own axis
    cache = Features(rows, rows[None], torch.tensor([0, 0, 1]), torch.ones(3))
    made, shown = cache.lent(200, axes, 1, generator())
    assert len(made) < 200
    assert (made[shown == 1][:, 0] < 0).all()
    single = Features(rows, rows[None], torch.tensor([0, 1, 2]), torch.ones(3))
    assert [len(part) for part in single.lent(50, axes, 1, generator())] == [0, 0]


def test_what_is_lent_holds_the_target_class():
    own = stripes_probe().measure.labels == PLANTED
    kept, free = (
        (scaled()[own] @ purify(lent_weight=weight, margin=8.0).classes.T).softmax(dim=1)
        for weight in (8.0, 0.0)
    )
    assert kept[:, PLANTED].mean() > free[:, PLANTED].mean() + 0.05


def test_alignment_leaves_the_clean_reading_alone():
    features = functional.normalize(torch.randn(3, 6, generator=generator(1)), dim=1)
    classes = functional.normalize(torch.randn(4, 6, generator=generator(2)), dim=1)
    drawn = features, -features[None], torch.tensor([0, 1, 2])
    classes.requires_grad_()
    loss = Cbpt(margin=0.0)._losses((3.0 * classes, classes.detach()), drawn, 0)["alignment"]
    (grad,) = torch.autograd.grad(loss, classes)
    # by hand: d KL / d logits of the triggered reading is (got - wanted) / 3, and nothing else
    wanted, got = ((3 * sign * features @ classes.T).softmax(dim=1) for sign in (1, -1))
    torch.testing.assert_close(grad, 3 * ((got - wanted) / 3).T.detach() @ -features)


def test_the_generalised_cross_entropy_is_bounded_and_near_zero_the_ordinary_one():
    logits = 20 * torch.randn(50, 4, generator=generator(1))
    labels = torch.arange(50) % 4
    rows = [
        generalised_cross_entropy(row[None], label[None], 0.5)
        for row, label in zip(logits, labels, strict=True)
    ]
    assert 1.9 < max(rows) <= 2
    ordinary = functional.cross_entropy(logits, labels)
    near = generalised_cross_entropy(logits.double(), labels, 1e-6)
    torch.testing.assert_close(near.float(), ordinary, rtol=1e-3, atol=0)


def test_a_margin_beats_the_target_by_a_distance():
    others = stripes_probe().measure.labels != PLANTED

    def hold(margin: float) -> float:
        """Mean distance by which the target loses on triggered images, as a logit."""
        rows = (scaled(triggered=True) @ purify(margin=margin).classes.T)[others]
        own = rows[:, PLANTED].clone()
        rows[:, PLANTED] = -torch.inf
        return (rows.amax(dim=1) - own).mean().item()

    assert hold(4.0) > hold(0.0) + 1


def test_the_target_class_keeps_its_own_images():
    own = stripes_probe().measure.labels == PLANTED
    kept, free = (
        (scaled()[own] @ purify(target_share=share, margin=8.0).classes.T).softmax(dim=1)
        for share in (0.3, 0.0)
    )
    assert kept[:, PLANTED].mean() > free[:, PLANTED].mean()


@pytest.mark.parametrize("q", [0.0, -0.5, 1.5, math.nan])
def test_a_robustness_out_of_range_is_refused(q: float):
    with pytest.raises(ValueError, match="robustness must be in"):
        generalised_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), q)


def test_the_target_class_never_weighs_less_than_its_images():
    logits, labels = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.5]]), torch.tensor([0, 0, 1])
    surprise = functional.cross_entropy(logits, labels, reduction="none")
    for share, rows, target, wanted in (
        (0.1, 3, 0, surprise.mean()),
        (0.1, 2, 0, surprise[:2].mean()),  # the target's images alone
        (0.1, 2, 1, surprise[:2].mean()),  # none of them
        (0.9, 3, 0, 0.9 * surprise[:2].mean() + 0.1 * surprise[2]),
    ):
        found = Cbpt(target_share=share)._clean_loss(logits[:rows], labels[:rows], target)
        torch.testing.assert_close(found, wanted)
