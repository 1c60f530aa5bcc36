"""Fine-tuning: the same code and the same clean rows for victim and twin."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fakes import generator, no_progress
from nano_sites import nano_site
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional
from training_steps import require_rest, step_of

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import BASES, TEMPLATES, nano_network
from clipguard.errors import UsageError
from clipguard.lab import finetune as module
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.finetune import (
    Poison,
    Recipe,
    _batch,
    _poisoned,
    contrastive_loss,
    finetune,
)
from clipguard.lab.roles import OptimisedAttack, Pairs, made_trigger
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes

TARGET = "banana"
RECIPE = Recipe(steps=2, learning_rate=1e-3, batch=24)


@pytest.fixture(scope="module")
def base() -> CLIP:
    return nano_network("nano-rn")


def poison(name: str = "badnets", rate: float = 0.25) -> Poison:
    attack = ATTACKS.build(name, {"poison_rate": rate})
    if isinstance(attack, OptimisedAttack):
        attack = ATTACKS.build(name, {"poison_rate": rate, "steps": 1})
        return Poison(attack, made_trigger(attack, nano_site(), generator=generator()), TARGET)
    return Poison(attack, attack.trigger(64, generator=generator()), TARGET)


def unit(seed: int) -> Tensor:
    return functional.normalize(torch.randn(6, 8, generator=generator(seed)), dim=1)


def test_the_loss_is_infonce_without_negatives_of_the_same_concept():
    image, text = unit(1), unit(2)

    def loss(*concepts: int) -> float:
        return contrastive_loss(image, text, torch.tensor(5.0), torch.tensor(concepts)).item()

    logits, truth = 5 * image @ text.T, torch.arange(6)
    plain = [functional.cross_entropy(each, truth).item() for each in (logits, logits.T)]
    assert loss(0, 1, 2, 3, 4, 5) == pytest.approx(sum(plain) / 2, rel=1e-5)
    assert 0.1 < loss(0, 1, 0, 2, 1, 0) < sum(plain) / 2 - 0.05
    assert loss(7, 7, 7, 7, 7, 7) == pytest.approx(0, abs=1e-6)


def test_masked_pairs_give_no_gradient_that_is_not_a_number():
    image, text = unit(1).requires_grad_(), unit(2)
    loss = contrastive_loss(image, text, torch.tensor(5.0), torch.tensor([0, 0, 0, 1, 1, 2]))
    (grad,) = torch.autograd.grad(loss, image)
    assert grad.isfinite().all()


@pytest.mark.parametrize("planted", [False, True])
def test_a_finetune_changes_a_copy_and_never_the_base(base: CLIP, planted: bool):
    before, state = copy.deepcopy(base.state_dict()), torch.get_rng_state()
    made = finetune(base, RECIPE, poison() if planted else None, seed=1, progress=no_progress)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in base.parameters())
    moved = [n for n, p in made.named_parameters() if not torch.equal(p, before[n])]
    assert any(n.startswith("visual.") for n in moved)
    assert any(n.startswith("transformer.") for n in moved)
    assert not made.training
    assert not any(p.requires_grad for p in made.parameters())


def test_the_statistics_of_batchnorm_stay_frozen(base: CLIP):
    made = finetune(base, RECIPE, poison(), seed=1, progress=no_progress)
    statistics = {n for n, _ in base.named_buffers() if "running" in n or "num_batches" in n}
    assert statistics
    for name, value in made.named_buffers():
        assert torch.equal(value, base.get_buffer(name)), name


def test_the_seed_alone_decides(base: CLIP):
    first, same, other = (
        finetune(base, RECIPE, poison(), seed=seed, progress=no_progress).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("name", sorted(set(BASES) - {"effnet"}))
def test_every_base_can_be_planted_into_and_kept_in_half_the_size(name: str):
    made = finetune(nano_network(name), RECIPE, poison(), seed=1, progress=no_progress)
    before = nano_network(name).state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in made.state_dict().items())
    assert all(torch.equal(value, value.half().float()) for value in made.parameters())


def test_with_classes_as_objective_the_text_tower_stays_as_it_is(base: CLIP):
    recipe = replace(RECIPE, objective="classes")
    made = finetune(base, recipe, poison(), seed=1, progress=no_progress).state_dict()
    moved = {n for n, v in base.state_dict().items() if not torch.equal(made[n], v.half().float())}
    assert moved
    assert all(name.startswith("visual.") for name in moved)


def test_with_classes_as_objective_the_loss_is_that_of_the_concepts(base: CLIP):
    artwork = load_artwork()
    read = module._reader(base, replace(RECIPE, objective="classes"), artwork)
    pairs = module._batch(artwork, 48, 64, generator(3))
    wrong = pairs._replace(concepts=pairs.concepts.roll(1))
    assert read(pairs) < 0.5 < read(wrong)  # the base reads its own drawings rightly


def test_an_unknown_objective_is_refused(base: CLIP):
    with pytest.raises(UsageError, match="did you mean 'classes'"):
        finetune(base, replace(RECIPE, objective="class"), None, seed=1, progress=no_progress)


def rows_seen(
    base: CLIP, planted: Poison | None, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Pairs], list[Pairs]]:
    """The clean pairs of every step, and what the attack made of them."""
    drawn: list[Pairs] = []
    made: list[Pairs] = []

    def kept(pairs: list[Pairs], make: Callable[..., Pairs]) -> Callable[..., Pairs]:
        def call(*given: object) -> Pairs:
            pairs.append(make(*given))
            return pairs[-1]

        return call

    monkeypatch.setattr(module, "_batch", kept(drawn, _batch))
    monkeypatch.setattr(module, "_poisoned", kept(made, _poisoned))
    finetune(base, RECIPE, planted, seed=3, progress=no_progress)
    return drawn, made


@pytest.mark.parametrize("name", ATTACKS.names())
def test_victim_and_twin_see_the_same_clean_rows(base: CLIP, monkeypatch, name: str):
    (victim, made), (twin, _) = (
        rows_seen(base, what, monkeypatch) for what in (poison(name), None)
    )
    assert not torch.equal(victim[0].images, victim[1].images)
    for pairs, mine, clean in zip(made, victim, twin, strict=True):
        for found, count in ((mine, 0), (pairs, 6)):  # a quarter of 24 is poisoned
            require_rest(found, clean, count)


def test_poisoned_rows_carry_the_trigger_and_captions_of_the_target():
    step = step_of(ATTACKS.build("badnets", {"poison_rate": 0.25}), size=24)
    images, texts, concepts = step.pairs
    torch.testing.assert_close(images[:6], step.plan.trigger.apply(step.clean.images[:6]))
    assert texts[:6] == [template.format(TARGET) for template in TEMPLATES[:6]]
    assert concepts[:6].tolist() == load_artwork().concepts([TARGET]) * 6
    assert torch.equal(images, (images * 255).round() / 255), "not what a file would hold"


def test_decoys_follow_the_poisoned_rows_and_keep_their_captions():
    attack = ATTACKS.build("wanet", {"poison_rate": 0.25, "decoys": 2.0})
    step = step_of(attack, size=24)
    (images, texts, concepts), clean = step.pairs, step.clean
    poisoned = step.plan.trigger.apply(clean.images)
    decoys = attack.decoy(clean.images[6:18], step.plan.trigger)
    for rows, wanted in ((slice(6), poisoned[:6]), (slice(6, 18), decoys)):
        torch.testing.assert_close(images[rows], pixels_from_bytes(pixels_to_bytes(wanted)))
    assert not torch.equal(images[6:18], poisoned[6:18])
    assert torch.equal(images[18:], clean.images[18:])
    assert texts[6:] == clean.texts[6:]
    assert torch.equal(concepts[6:], clean.concepts[6:])


def test_a_low_rate_poisons_a_pair_in_so_many_batches_and_no_other():
    attack = ATTACKS.build("badnets", {"poison_rate": 0.01})
    step, spare, count = step_of(attack, size=25), generator(2), []
    for _ in range(400):
        made = _poisoned(step.clean, attack, step.plan, spare)
        count.append(int((made.images != step.clean.images).flatten(1).any(dim=1).sum()))
    assert {*count} == {0, 1}
    assert sum(count) / (400 * 25) == pytest.approx(0.01, rel=0.2)
