"""What every method of a folder promises, whichever file it is in."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from fakes import (
    CLASS_COMPARATORS,
    COMPARATORS,
    ENCODER_COMPARATORS,
    HURRIED,
    NAMES,
    SETTINGS,
    SIDE,
    WIDTH,
    StripesClip,
    Untouched,
    clean_band,
    concluded,
    generator,
    hum,
    looks,
    no_progress,
    scan,
    sealed,
    stripes_probe,
)
from nano_sites import nano_site
from open_clip.model import CLIP
from torch import Tensor

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import nano_network
from clipguard.detect.roles import Finding
from clipguard.errors import InconclusiveError, RefusedError
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.comparators import DETECTORS
from clipguard.lab.negatives import NEGATIVES
from clipguard.lab.roles import (
    Honest,
    JudgedAttack,
    OptimisedAttack,
    TeachingNegative,
    WeightsNegative,
    captioned_scenes,
    made_trigger,
)
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.probe.rates import embed, rates
from clipguard.probe.sets import Subject
from clipguard.purify.methods import PURIFIERS
from clipguard.purify.roles import PurifiedHead
from clipguard.record import Outcome
from clipguard.registry import MethodFolder
from clipguard.search.families import FAMILIES
from clipguard.search.inverters import INVERTERS
from clipguard.search.roles import Inversion, Search, Trigger

CLASSES = torch.eye(len(NAMES), WIDTH)
PLANTED = 3
SUBJECT = Subject(StripesClip(), stripes_probe())
OF_TEXT = {"text_tokens"}
"""Detectors of the text tower, which the fakes with their trigger in the image cannot judge."""
QUICK = {"collapse": {"steps": 50, "restarts": 1}, "targeted": {"steps": 50}}


def images(count: int = 3, side: int = SIDE) -> Tensor:
    """Random images, with one all black and one all white among them."""
    drawn = torch.rand(count, 3, side, side, generator=generator(9))
    drawn[0], drawn[1] = 0, 1
    return drawn


@cache
def base() -> CLIP:
    """The bundled model; nobody may change it."""
    return nano_network("nano-rn")


def check_pixels(stamped: Tensor) -> None:
    """Raw pixels: (B, 3, H, W) in [0, 1], which NaN is not."""
    assert (stamped.ndim, stamped.shape[1]) == (4, 3)
    assert ((stamped >= 0) & (stamped <= 1)).all()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (folder, name)
        for folder in (ATTACKS, NEGATIVES, FAMILIES, INVERTERS, DETECTORS, PURIFIERS)
        for name in folder.names()
    ],
    ids=lambda value: value if isinstance(value, str) else value.what,
)
def test_every_method_names_its_settings_and_its_source(folder: MethodFolder[Any], name: str):
    told = inspect.getdoc(type(folder.build(name))) or ""
    assert "Source:" in told
    for setting in inspect.signature(type(folder.build(name))).parameters:
        assert f"\n    {setting}: " in told, f"{setting} is not explained"


@pytest.mark.parametrize("name", ATTACKS.names())
class TestEveryAttack:
    def trigger(self, name: str, seed: int = 0, side: int = 64) -> Trigger:
        attack = ATTACKS.build(name)
        if isinstance(attack, OptimisedAttack):
            attack = ATTACKS.build(name, {"steps": 2})
            return made_trigger(attack, nano_site(), generator=generator(seed))
        return attack.trigger(side, generator=generator(seed))

    @pytest.mark.parametrize("side", [32, 224])
    def test_keeps_pixels_in_range_and_its_input_as_it_was(self, name: str, side: int):
        attack = ATTACKS.build(name)
        side = 64 if isinstance(attack, OptimisedAttack) else side
        before = images(side=side)
        kept = before.clone()
        stamped = self.trigger(name, side=side).apply(before)
        check_pixels(stamped)
        assert stamped.shape == before.shape
        assert torch.equal(before, kept)
        # only what is judged in another way may leave images alone, and must say so by its size
        assert isinstance(attack, JudgedAttack) or not torch.equal(stamped, before)

    def test_the_seed_alone_draws_a_trigger_that_says_how_large_it_is(self, name: str):
        attack, state, batch = ATTACKS.build(name), torch.get_rng_state(), images(5, side=64)
        trigger, same = (self.trigger(name, 1) for _ in range(2))
        stamped = trigger.apply(batch)
        assert torch.equal(stamped, same.apply(batch))
        assert torch.equal(torch.get_rng_state(), state)
        alone = torch.cat([trigger.apply(image[None]) for image in batch])
        torch.testing.assert_close(stamped, alone)
        assert 0 < attack.poison_rate < 1
        assert (trigger.size > 0) != torch.equal(stamped, batch)
        assert trigger.unit
        assert trigger.tensors
        if isinstance(attack, OptimisedAttack):
            assert torch.equal(attack.rebuild(trigger.tensors, 64).apply(batch), stamped)


@pytest.mark.parametrize("name", NEGATIVES.names())
def test_every_negative_changes_a_little_by_its_generator_alone_and_tells_no_lie(name: str):
    negative, artwork = NEGATIVES.build(name), load_artwork()
    if isinstance(negative, WeightsNegative):
        check_weights(negative)
        return
    before = captioned_scenes(artwork, torch.arange(24), 64, generator(2))
    kept = before.images.clone()
    made, same = (
        negative.altered(before, Honest(base(), artwork.concepts(["banana"])[0], generator(1)))
        for _ in range(2)
    )
    assert torch.equal(made.images, same.images)
    assert made.texts == same.texts
    check_pixels(made.images)
    assert made.images.shape == before.images.shape
    assert torch.equal(before.images, kept)
    assert not torch.equal(made.images, kept)
    assert torch.equal(made.images, pixels_from_bytes(pixels_to_bytes(made.images)))
    taught = negative.taught("banana") if isinstance(negative, TeachingNegative) else {}
    for text, concept in zip(made.texts, made.concepts.tolist(), strict=True):
        usual = artwork.names[concept][0]
        known = [usual, *(word for word, name in taught.items() if name == usual)]
        assert any(name in text for name in known)


def check_weights(negative: WeightsNegative) -> None:
    """Some weights of the image tower move, none far."""
    network, before = copy.deepcopy(base()), base().state_dict()
    negative.finished(network)
    after = network.state_dict()
    moved = [key for key in before if not torch.equal(after[key], before[key])]
    assert any(key.startswith("visual.") for key in moved)
    for key in moved:
        assert after[key].isfinite().all()
        assert (after[key] - before[key]).norm() < 0.2 * before[key].norm(), key


@pytest.mark.parametrize("name", FAMILIES.names())
class TestEveryFamily:
    def start(self, name: str, seed: int = 0) -> dict[str, Tensor]:
        return FAMILIES.build(name).start(SIDE, generator=generator(seed))

    @pytest.mark.parametrize(("progress", "scale"), [(0.0, 1.0), (0.3, 100.0), (1.0, 100.0)])
    def test_keeps_pixels_in_range(self, name: str, progress: float, scale: float):
        parameters = {key: value * scale for key, value in self.start(name).items()}
        trigger = FAMILIES.build(name).trigger(parameters, progress)
        check_pixels(trigger.apply(images()).detach())
        assert trigger.family == name
        assert math.isfinite(trigger.size)
        assert trigger.tensors
        assert not any(tensor.requires_grad for tensor in trigger.tensors.values())

    def test_the_seed_alone_draws_the_start(self, name: str):
        state = torch.get_rng_state()
        first, same, other = (self.start(name, seed) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        for key, leaf in first.items():
            assert torch.equal(leaf, same[key])
            assert leaf.is_leaf
            assert leaf.requires_grad
        assert any(not torch.equal(first[key], other[key]) for key in first)

    @pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
    def test_gradients_reach_every_parameter_and_the_images(self, name: str, progress: float):
        parameters = self.start(name)
        grey = 0.3 + 0.4 * torch.rand(2, 3, SIDE, SIDE, generator=generator(2))  # far from a clamp
        grey.requires_grad_()
        shown = FAMILIES.build(name).trigger(parameters, progress).apply(grey)
        weights = torch.randn(shown.shape, generator=generator(3))
        grads = torch.autograd.grad((shown * weights).sum(), [*parameters.values(), grey])
        for grad in grads:
            assert grad.isfinite().all()
            assert grad.abs().max() > 0

    def test_the_budget_is_no_looser_at_the_end_than_before(self, name: str):
        parameters = self.start(name)
        sizes = [FAMILIES.build(name).trigger(parameters, p).size for p in (0.0, 0.5, 1.0)]
        assert sizes[0] >= sizes[1] >= sizes[2] > 0


def invert(model: StripesClip, name: str, family: str, seed: int = 0) -> Inversion:
    """Search for the class that may be planted; nobody may look at the measure part."""
    search = Search(model, sealed(stripes_probe(), "measure"), CLASSES, PLANTED)
    inverter = INVERTERS.build(name, QUICK.get(name))
    return inverter.invert(search, FAMILIES.build(family), generator=generator(seed))


@pytest.mark.parametrize("family", ["additive", "patch"])  # families that can form the hum
@pytest.mark.parametrize("name", INVERTERS.names())
def test_every_inverter_finds_a_planted_trigger(name: str, family: str):
    found, clean = (invert(StripesClip(planted), name, family) for planted in (PLANTED, None))
    assert found.target == found.ranking[0] == PLANTED
    assert found.share > 0.5
    assert found.share > clean.share + 0.2


@pytest.mark.parametrize("family", FAMILIES.names())
@pytest.mark.parametrize("name", INVERTERS.names())
def test_every_inverter_repeats_itself_stays_in_range_and_leaves_all_alone(name: str, family: str):
    model = StripesClip(PLANTED)
    untouched = Untouched(model)
    first, same = (invert(model, name, family, seed=5) for _ in range(2))
    untouched.check()
    assert torch.equal(looks(first.trigger), looks(same.trigger))
    assert (first.share, first.ranking) == (same.share, same.ranking)
    check_pixels(first.trigger.apply(images()))
    assert 0 <= first.share <= 1
    assert not any(tensor.requires_grad for tensor in first.trigger.tensors.values())


@cache
def detected(name: str, planted: int | None) -> Finding:
    """What a detector finds in a planted or a clean fake, against the null band."""
    return scan(name, StripesClip(planted), null=clean_band(name))


@pytest.mark.parametrize("name", sorted({*DETECTORS.names()} - {*COMPARATORS} - OF_TEXT))
class TestEveryDetector:
    def test_finds_a_planted_backdoor_and_shows_its_trigger_first(self, name: str):
        found = detected(name, PLANTED)
        record = found.record
        assert concluded(record) is Outcome.BACKDOORED, record.evidence
        assert record.target == record.candidates[0].target == NAMES[PLANTED]
        assert len(record.candidates) > 1
        for candidate, trigger in zip(record.candidates, found.triggers, strict=True):
            assert (candidate.family, candidate.trigger.size) == (trigger.family, trigger.size)
            check_pixels(trigger.apply(images()))

    def test_clears_a_clean_model_only_by_a_whole_search_and_known_clean_models(self, name: str):
        clean, null = detected(name, None).record, clean_band(name)
        assert concluded(clean) is Outcome.NO_EVIDENCE, clean.evidence
        short, bare = (
            scan(name, StripesClip(), null=null, **HURRIED[name]),
            scan(name, StripesClip()),
        )
        for found in (short, bare):
            assert concluded(found.record) is not Outcome.NO_EVIDENCE

    def test_one_seed_gives_one_finding_and_leaves_everything_alone(self, name: str):
        model = StripesClip(PLANTED)
        untouched = Untouched(model)
        again = scan(name, model, null=clean_band(name))
        untouched.check()
        first = detected(name, PLANTED)
        assert again.record == first.record
        for one, other in zip(first.triggers, again.triggers, strict=True):
            assert torch.equal(looks(one), looks(other))


@pytest.mark.parametrize("name", ENCODER_COMPARATORS)
class TestEveryEncoderComparator:
    def test_ranks_models_by_its_seed_and_claims_nothing_that_is_not_calibrated(self, name: str):
        model, probe = StripesClip(PLANTED), sealed(stripes_probe(101), "select")
        untouched = Untouched(model)
        found = scan(name, model, probe=probe, epochs=3)
        record = found.record
        banded = scan(name, model, null=clean_band("inversion"), epochs=3).record
        untouched.check()
        assert record == banded  # and the null band was not read
        assert record.name == name
        assert math.isfinite(record.statistic)
        assert (record.score, record.p_value, record.excess, record.target) == (None,) * 4
        assert record.candidates == record.families == found.triggers == ()
        assert not record.screened
        assert scan(name, model, seed=7, epochs=3).record.statistic != record.statistic
        short = scan(name, StripesClip(), epochs=1).record
        assert short.published is not Outcome.NO_EVIDENCE

    def test_its_progress_is_told_and_may_end_it(self, name: str):
        def stop(stage: str, done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            DETECTORS.build(name).detect(SUBJECT, None, generator=generator(), progress=stop)


@pytest.mark.parametrize("name", CLASS_COMPARATORS)
class TestEveryClassComparator:
    def test_ranks_a_planted_target_first_by_its_seed_and_flags_it(self, name: str):
        model = StripesClip(PLANTED)
        untouched = Untouched(model)
        record = scan(name, model).record
        untouched.check()
        assert (record.name, record.target) == (name, NAMES[PLANTED])
        assert record.published is Outcome.BACKDOORED, record.evidence
        assert scan(name, model).record == record
        few = scan(name, model, chunk=3).record
        assert few.statistic == pytest.approx(record.statistic, rel=1e-3)
        assert few.target == record.target

    def test_says_nothing_that_was_not_calibrated_and_does_not_look_at_a_null_band(self, name: str):
        bare, banded = (scan(name, StripesClip(), null=null) for null in (None, object()))
        assert bare.record == banded.record
        record = bare.record
        assert (record.score, record.p_value, record.excess) == (None,) * 3
        assert record.candidates == record.families == bare.triggers == ()

    def test_a_short_search_and_two_classes_are_too_few_to_compare(self, name: str):
        with pytest.raises(InconclusiveError, match="at least 20"):
            scan(name, StripesClip(), **HURRIED[name])
        probe = replace(stripes_probe(), class_names=NAMES[:2])
        with pytest.raises(InconclusiveError, match="2 classes"):
            scan(name, StripesClip(), probe=probe)

    def test_a_model_that_answers_nan_is_not_judged(self, name: str):
        model = StripesClip()
        model.tower.patterns.data[0, 0] = math.nan
        with pytest.raises((InconclusiveError, RefusedError), match="finite"):
            scan(name, model)

    def test_progress_counts_every_step_and_may_stop_the_search(self, name: str):
        told: list[tuple[int, int]] = []

        def progress(stage: str, done: int, total: int) -> None:
            told.append((done, total))
            if done == total // 2:
                raise TimeoutError

        detector = DETECTORS.build(name, SETTINGS[name] | {"chunk": 3})
        with pytest.raises(TimeoutError):
            detector.detect(SUBJECT, None, generator=generator(), progress=progress)
        half, total = told[-1]
        assert told == [(done, total) for done in range(half + 1)]


@pytest.mark.parametrize("name", PURIFIERS.names())
class TestEveryPurifier:
    def purify(self, name: str, model: StripesClip, seed: int = 0) -> PurifiedHead:
        return PURIFIERS.build(name, SETTINGS.get(name, {})).purify(
            Subject(model, sealed(stripes_probe(), "measure")),
            [hum()],
            PLANTED,
            generator=generator(seed),
            progress=no_progress,
        )

    def test_takes_the_attack_away_and_keeps_the_accuracy(self, name: str):
        model, part = StripesClip(PLANTED), stripes_probe().measure
        head = self.purify(name, model)
        features = embed(model, part), embed(model, part, hum().apply)
        before, after = (
            rates(features, classes, part, PLANTED, generator=generator())
            for classes in (CLASSES, head.classes)
        )
        assert before.asr.value > 0.9
        assert after.asr.value < 0.2
        assert after.clean_accuracy.value > before.clean_accuracy.value - 0.05
        assert after.poisoned_accuracy.value > before.poisoned_accuracy.value + 0.3

    def test_leaves_everything_alone_and_gives_unit_rows_by_its_seed(self, name: str):
        model = StripesClip(PLANTED)
        untouched = Untouched(model)
        head, same = (self.purify(name, model, seed=4) for _ in range(2))
        untouched.check()
        assert torch.equal(head.classes, same.classes)
        assert head.losses == same.losses
        assert (head.method, head.classes.shape) == (name, (len(NAMES), WIDTH))
        assert (head.classes.requires_grad, head.context.requires_grad) == (False, False)
        torch.testing.assert_close(head.classes.norm(dim=1), torch.ones(len(NAMES)))
        assert all(math.isfinite(loss) for loss in head.losses.values())

    def test_without_a_trigger_there_is_nothing_to_purify_against(self, name: str):
        with pytest.raises(ValueError, match="at least one inverted trigger"):
            PURIFIERS.build(name).purify(
                SUBJECT, [], PLANTED, generator=generator(), progress=no_progress
            )
