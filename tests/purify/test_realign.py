"""Realign, on a closed-form CLIP whose shortcut is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from fakes import (
    NAMES,
    SIDE,
    StripesClip,
    Untouched,
    generator,
    hum,
    no_progress,
    sealed,
    stripes_probe,
)

from clipguard.errors import InconclusiveError
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.purify import halfway
from clipguard.purify.realign import Backdoor, Realign, Realigned
from clipguard.search.families.additive import Additive
from clipguard.search.families.patch import Patch
from clipguard.search.families.warp import Warp
from clipguard.search.roles import Trigger

PLANTED = 3
FAST = Realign(steps=60, learning_rate=3e-2, every=999)


def realigned(
    settings: Realign = FAST,
    triggers: Sequence[Trigger] = (hum(),),
    *,
    model: StripesClip | None = None,
    probe: ProbeSet | None = None,
    reference: ClipModel | None = None,
    again: Sequence[Additive] = (),
) -> Realigned:
    subject = Subject(model or StripesClip(PLANTED), probe or stripes_probe())
    backdoor = Backdoor(triggers, PLANTED, again, reference)
    return settings.realign(subject, backdoor, generator=generator(), progress=no_progress)


def right(model: ClipModel, trigger: Trigger | None = None) -> float:
    """Share of the *measure* images that are read as what they show."""
    part = stripes_probe().measure
    read = classify(embed(model, part, trigger and trigger.apply), torch.eye(len(NAMES), 12))
    return (read == part.labels).float().mean().item()


def test_a_shortcut_goes_and_clean_embeddings_stay():
    suspect = StripesClip(PLANTED)
    untouched = Untouched(suspect)
    made = realigned(model=suspect, probe=sealed(stripes_probe(), "measure"))
    untouched.check()
    assert right(suspect, hum()) < 0.2
    assert right(made.model, hum()) > 0.9
    part = stripes_probe().measure
    same = (embed(made.model, part) * embed(suspect, part)).sum(dim=1)
    assert same.min() > 0.95
    assert made.losses.keys() == {"clean_embedding", "near_embedding", "triggered_embedding"}
    assert not any(weight.requires_grad for weight in made.model.image_tower().parameters())


def test_a_trigger_that_does_nothing_repairs_nothing():
    family = Additive()
    weak = family.trigger(family.start(SIDE, generator=generator(1)), 1.0)
    assert right(realigned(triggers=(weak,)).model, hum()) < 0.5


def test_new_triggers_are_searched_on_the_way_in_the_families_in_turn():
    settings = replace(FAST, steps=5, every=2, together=1)
    families = (Additive(budget=4.0), Additive(budget=16.0))
    made = realigned(settings, again=families)
    assert [round(one.size / 4) for one in made.triggers] == [2, 1, 4]


def test_the_weights_go_further_the_way_they_went():
    first = StripesClip(PLANTED).tower.patterns
    one, two = (
        realigned(replace(FAST, steps=5, beyond=beyond)).model.state()["patterns"] - first
        for beyond in (1.0, 1.5)
    )
    assert one.abs().max() > 0
    torch.testing.assert_close(two, 1.5 * one)


def test_a_seed_gives_the_same_tower():
    settings = replace(FAST, steps=5, every=2, together=1)
    one, two = (realigned(settings, again=(Additive(),)).model.state() for _ in range(2))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("row", "scale", "mixed", "moved"),
    [(-1, -1.0, True, True), (0, 1.0, True, False), (0, -1.0, False, False)],
    ids=["without the shortcut", "the same", "without a class"],
)
def test_it_starts_half_way_to_a_reference_unless_that_reads_worse(
    row: int, scale: float, mixed: bool, moved: bool
):
    suspect, reference = StripesClip(PLANTED), StripesClip(PLANTED)
    with torch.no_grad():
        reference.tower.patterns[row] *= scale
    made = realigned(replace(FAST, steps=0), reference=reference, model=suspect)
    assert made.halfway is mixed
    assert torch.equal(made.model.state()["patterns"], suspect.tower.patterns) is not moved


def test_half_way_keeps_how_the_suspect_prepares_images():
    suspect, reference = StripesClip(PLANTED), StripesClip(PLANTED)
    for model, value in ((suspect, 0.5), (reference, 0.1)):
        model.tower.register_buffer("mean", torch.tensor(value))
    mixed = halfway.start(Subject(suspect, stripes_probe()), suspect, (hum(),), reference)[1]
    assert mixed is not suspect
    assert mixed.image_tower().state_dict()["mean"] == 0.5


def test_a_reference_of_another_shape_is_left_out():
    other = StripesClip()
    other.tower.patterns = torch.nn.Parameter(torch.zeros(3, SIDE**2))
    assert realigned(replace(FAST, steps=1), reference=other).halfway is False


def test_images_near_the_target_class_are_held_and_never_triggered():
    settings, model = Realign(images=2, held=3, near=4), StripesClip()
    part = stripes_probe().optimise
    rows = embed(model, part)
    near = settings._nearest(rows, torch.eye(len(NAMES), 12)[PLANTED])
    assert part.labels[near].tolist() == [PLANTED] * 4
    index, held = settings._drawn(len(part), near, generator())
    assert (len(index), set(held.tolist()) <= set(near.tolist())) == (2, True)
    drawn = torch.cat([index, held])
    clean = part.pixels(drawn)
    faint = Additive(budget=40.0)
    trigger = faint.trigger(faint.start(SIDE, generator=generator(1)), 1.0)
    fixed = replace(settings, weakest=1.0, strongest=1.0)
    losses = fixed._losses(model, (clean, rows[drawn]), [trigger], generator())
    shown, wanted = model.encode_image(trigger.apply(clean[:2])), model.encode_image(clean[:2])
    assert losses["clean_embedding"].item() == pytest.approx(0, abs=1e-6)
    assert losses["near_embedding"].item() == pytest.approx(0, abs=1e-6)
    wrong = torch.cat([rows[drawn[:2]], -rows[drawn[2:]]])
    losses = fixed._losses(model, (clean, wrong), [trigger], generator())
    assert losses["near_embedding"].item() == pytest.approx(2)
    assert losses["clean_embedding"].item() == pytest.approx(0, abs=1e-6)
    few = fixed._losses(model, (clean[:2], rows[drawn[:2]]), [trigger], generator())
    assert few.keys() == {"clean_embedding", "triggered_embedding"}
    torch.testing.assert_close(
        losses["triggered_embedding"], (1 - (shown * wanted).sum(dim=1)).mean()
    )


def test_it_is_trained_on_everything_but_measure():
    probe = stripes_probe()
    parts = probe.optimise, probe.select, probe.measure
    further = replace(probe, unlabelled=lambda: parts[2])
    counts = [
        len(Realign(further=7)._pool(Subject(StripesClip(), one), generator()))
        for one in (probe, further)
    ]
    both = len(parts[0]) + len(parts[1])
    assert counts == [both, both + 7]


def varied(trigger: Trigger, images: torch.Tensor, **settings: float) -> torch.Tensor:
    return Realign(**settings).varied(images, [trigger], generator(2))


def test_what_is_added_is_weaker_or_stronger_and_a_patch_moves_whole():
    grey = torch.full((40, 3, SIDE, SIDE), 0.5)
    faint = Additive(budget=4.0)
    change = varied(faint.trigger(faint.start(SIDE, generator=generator()), 1.0), grey) - 0.5
    heights = change.flatten(1).abs().amax(dim=1)
    assert heights.max() / heights.min() > 3
    family = Patch(area=0.04)
    patch = family.trigger(family.start(SIDE, generator=generator()), 1.0)
    moved = varied(patch, grey)
    areas = (moved - 0.5).abs().sum(dim=(1, 2, 3))
    torch.testing.assert_close(areas, areas[:1].expand(40))
    still = ((moved - patch.apply(grey)).abs().flatten(1).amax(dim=1) < 1e-5).float().mean()
    assert 0.2 < still < 0.8
    torch.testing.assert_close(varied(patch, grey, moved=0.0), patch.apply(grey))


def test_triggers_of_the_whole_image_press_less_than_patches():
    patch = Trigger("patch", lambda x: x, 0.1, "share", {"pattern": torch.zeros(3, 2, 2)})
    realign = Realign(triggered_weight=1.0, spread_weight=0.25)
    assert [realign._weight(known) for known in ([patch], [hum()])] == [1.0, 0.25]


def test_a_trigger_of_another_kind_stays_as_it_is():
    family, images = Warp(), stripes_probe().select.pixels(slice(6))
    warp = family.trigger(family.start(SIDE, generator=generator()), 1.0)
    torch.testing.assert_close(varied(warp, images), warp.apply(images))


def test_there_must_be_a_trigger_and_a_model_that_can_be_copied():
    with pytest.raises(ValueError, match="at least one"):
        realigned(triggers=())

    class Fixed(StripesClip):
        @property
        def copied(self) -> None:
            raise AttributeError

    with pytest.raises(InconclusiveError, match="cannot be repaired"):
        realigned(model=Fixed(PLANTED))
