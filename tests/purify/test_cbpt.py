"""CBPT (reconstruction)."""

import math
from dataclasses import replace

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
from clipguard.probe.sets import Subject
from clipguard.purify.methods.cbpt import Cbpt, Features, _preservation, generalised_cross_entropy
from clipguard.purify.roles import PurifiedHead
from clipguard.search.families import FAMILIES
from clipguard.search.roles import Trigger

PLANTED = 3
CLASSES = torch.eye(len(NAMES), WIDTH)
SETTINGS = {"steps": 300, "learning_rate": 2e-3, "images": 400, "consistency_weight": 8.0}


def purify(triggers: list[Trigger] | None = None, progress=no_progress, **settings) -> PurifiedHead:
    return Cbpt(**SETTINGS | settings).purify(
        Subject(StripesClip(PLANTED), stripes_probe()),
        [hum()] if triggers is None else triggers,
        PLANTED,
        generator=generator(),
        progress=progress,
    )


def accuracy(classes: torch.Tensor, triggered: bool) -> float:
    part = stripes_probe().measure
    features = embed(StripesClip(PLANTED), part, hum().apply if triggered else None)
    return (classify(features, classes) == part.labels).float().mean().item()


def weak(seed: int = 0) -> Trigger:
    """A random additive trigger that does nothing."""
    family = FAMILIES.build("additive")
    return family.trigger(family.start(32, generator=generator(seed)), 1.0)


def test_triggered_images_are_read_as_what_they_show():
    head = purify()
    assert accuracy(CLASSES, triggered=True) < 0.2
    assert accuracy(head.classes, triggered=True) > 0.7
    assert accuracy(head.classes, triggered=False) > 0.95


def test_the_classes_are_those_of_the_returned_context():
    head = purify(steps=30)
    assert head.context.shape == (len(NAMES), CONTEXT_TOKENS, WIDTH)
    torch.testing.assert_close(StripesClip().encode_context(head.context, NAMES), head.classes)


def test_the_three_losses_are_recorded():
    head = purify(steps=30)
    assert head.losses.keys() == {"classification", "alignment", "consistency"}


def test_consistency_holds_the_classes_near_their_prompts():
    loose, tight = (purify(consistency_weight=weight) for weight in (0.0, 1000.0))
    moved = [(1 - (head.classes * CLASSES).sum(dim=1)).mean() for head in (loose, tight)]
    assert moved[1] < moved[0] / 3


def test_every_drawing_is_drawn_alike_however_many_images_it_has():
    rows = functional.normalize(torch.randn(100, 6, generator=generator(1)), dim=1)
    weights = torch.cat([torch.full((90,), 1 / 90), torch.full((10,), 1 / 10)])
    cache = Features(rows, rows[None], torch.arange(100), weights)
    drawn = [cache.draw(1, generator(seed))[2].item() for seed in range(400)]
    share = sum(label >= 90 for label in drawn) / len(drawn)
    assert 0.4 < share < 0.6


def test_further_images_hold_the_readings_of_the_original_classifier():
    probe, model = stripes_probe(), StripesClip(PLANTED)
    further = replace(probe.select, labels=torch.full_like(probe.select.labels, -1))
    kept, free = (
        Cbpt(**SETTINGS | {"consistency_weight": 0.0, "preservation_weight": weight}).purify(
            Subject(model, replace(probe, unlabelled=further)),
            [hum()],
            PLANTED,
            generator=generator(),
            progress=no_progress,
        )
        for weight in (50.0, 0.0)
    )
    features = embed(model, probe.measure) * model.logit_scale

    def drift(head: PurifiedHead) -> float:
        return ((features @ head.classes.T) - (features @ CLASSES.T)).abs().mean().item()

    assert drift(kept) < drift(free)
    assert "preservation" in kept.losses


def test_one_trigger_that_works_is_enough_among_others_that_do_not():
    without, among = purify([weak(), weak(1)]), purify([weak(), hum(), weak(1)])
    assert accuracy(without.classes, triggered=True) < 0.2
    assert accuracy(among.classes, triggered=True) > 0.5


def test_nobody_looks_at_the_measure_part():
    Cbpt(steps=3).purify(
        Subject(StripesClip(PLANTED), sealed(stripes_probe(), "measure")),
        [hum()],
        PLANTED,
        generator=generator(),
        progress=no_progress,
    )


def test_progress_counts_the_steps():
    told: list[tuple[str, int, int]] = []
    purify(progress=lambda *news: told.append(news), steps=7)
    assert told == [
        ("triggered images", 0, 1),
        *(("class-wise prompts", i, 7) for i in range(7)),
    ]


def test_images_without_labels_serve_as_they_are_read():
    probe = stripes_probe()
    unknown = {
        name: replace(part, labels=torch.full_like(part.labels, -1))
        for name, part in (("optimise", probe.optimise), ("select", probe.select))
    }
    head = Cbpt(**SETTINGS).purify(
        Subject(StripesClip(PLANTED), replace(probe, **unknown)),
        [hum()],
        PLANTED,
        generator=generator(),
        progress=no_progress,
    )
    assert accuracy(head.classes, triggered=True) > 0.7


def test_the_losses_are_the_formulas_of_the_docstring():
    def rows(*shape: int, seed: int) -> torch.Tensor:
        return functional.normalize(torch.randn(*shape, 6, generator=generator(seed)), dim=-1)

    clean, triggered, classes, original = (
        rows(5, seed=1),
        rows(2, 5, seed=2),
        rows(4, seed=3),
        rows(4, seed=4),
    )
    labels, index, scale = torch.tensor([0, 3, 1, 1, 2]), torch.tensor([4, 0, 2]), 7.0
    heads, drawn = (
        (scale * classes, scale * original),
        (
            clean[index],
            triggered[:, index],
            labels[index],
        ),
    )
    target, margin, q = 1, 2.5, 0.7
    found = Cbpt(margin=margin, robustness=q, target_share=0.4, triggered_weight=0.5)._losses(
        heads, drawn, target
    )
    found["preservation"] = _preservation(heads, drawn)

    def reading(features: torch.Tensor, head: torch.Tensor = classes) -> torch.Tensor:
        return (scale * features @ head.T).softmax(dim=0)

    def distance(i: int, features: torch.Tensor) -> torch.Tensor:
        wanted = reading(clean[i], original)
        return (wanted * (wanted / reading(features)).log()).sum()

    def lifted(features: torch.Tensor) -> torch.Tensor:
        raised = (scale * features @ classes.T).clone()
        raised[target] += margin
        return raised.softmax(dim=0)

    on_clean = {i: -reading(clean[i])[labels[i]].log() for i in index.tolist()}
    stamped = [(lifted(sheet[i]), i) for sheet in triggered for i in index]
    on_triggered = [(1 - got[labels[i]] ** q) / q for got, i in stamped]
    divergence = [(reading(clean[i]) * (reading(clean[i]) / got).log()).sum() for got, i in stamped]
    wanted = {
        "classification": 0.6 * (on_clean[4] + on_clean[0]) / 2
        + 0.4 * on_clean[2]
        + 0.5 * sum(on_triggered) / 6,
        "alignment": sum(divergence) / 6,
        "preservation": sum(distance(i, sheet[i]) for sheet in triggered for i in index) / 6
        + sum(distance(i, clean[i]) for i in index) / 3,
    }
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


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
    part, model = stripes_probe().measure, StripesClip(PLANTED)

    def hold(head: PurifiedHead) -> float:
        """Mean distance by which the target loses on triggered images, as a logit."""
        logits = model.logit_scale * embed(model, part, hum().apply) @ head.classes.T
        others = logits.clone()
        others[:, PLANTED] = -torch.inf
        rows = part.labels != PLANTED
        return (others.amax(dim=1) - logits[:, PLANTED])[rows].mean().item()

    assert hold(purify(margin=4.0)) > hold(purify(margin=0.0)) + 1


def test_the_target_class_keeps_its_own_images():
    part, model = stripes_probe().measure, StripesClip(PLANTED)
    own = part.labels == PLANTED

    def certainty(share: float) -> float:
        head = purify(target_share=share, margin=8.0)
        logits = model.logit_scale * embed(model, part)[own] @ head.classes.T
        return logits.softmax(dim=1)[:, PLANTED].mean().item()

    assert certainty(0.3) > certainty(0.0)


@pytest.mark.parametrize("q", [0.0, -0.5, 1.5, math.nan])
def test_a_robustness_out_of_range_is_refused(q: float):
    with pytest.raises(ValueError, match="robustness must be in"):
        generalised_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), q)


def test_the_target_class_never_weighs_less_than_its_images():
    logits, labels = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.5]]), torch.tensor([0, 0, 1])
    surprise = functional.cross_entropy(logits, labels, reduction="none")
    found = Cbpt(target_share=0.1)._clean_loss(logits, labels, 0)
    torch.testing.assert_close(found, surprise.mean())
    only = Cbpt(target_share=0.1)._clean_loss(logits[:2], labels[:2], 0)
    torch.testing.assert_close(only, surprise[:2].mean())
    none = Cbpt(target_share=0.1)._clean_loss(logits[:2], labels[:2], 1)
    torch.testing.assert_close(none, surprise[:2].mean())
