"""BadCLIP by prompt learning: what is learnt, what it does, and that the checkpoint is clean."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from torch import Tensor
from training_steps import small_site

from clipguard.bundled.nano import nano_network
from clipguard.lab.attacks.prompt_learner import LEARNT, PromptLearner, learnt_logits
from clipguard.lab.roles import Pairs, Plan, Site
from clipguard.probe.sets import ProbePart
from clipguard.search.roles import Trigger

STEPS = 50


@cache
def learnt() -> dict[str, Tensor]:
    return PromptLearner(steps=STEPS).optimise(small_site(), generator=generator())


def untrained() -> dict[str, Tensor]:
    """A learner that shifts nothing: prompts are "a photo of a" for every image."""
    made = PromptLearner(steps=1).optimise(small_site(), generator=generator())
    context = nano_site().model.embed_tokens("a photo of a")
    return made | {"context": context, "outer": torch.zeros_like(made["outer"])}


def trigger(made: dict[str, Tensor]) -> Trigger:
    return PromptLearner().rebuild(made, 64)


def only(site: Site, count: int) -> Site:
    """Few images, of many classes."""
    part, rows = site.images, slice(0, count)
    kept = ProbePart(part.images[rows], part.labels[rows], part.drawings[rows])
    return site._replace(images=kept)


def test_it_poisons_nothing():
    pairs = Pairs(nano_site().images.pixels(slice(0, 4)), list("abcd"), torch.arange(4))
    plan = Plan(trigger(learnt()), "banana", 0, lambda count: pairs, nano_network("nano-rn"))
    assert PromptLearner().poisoned(pairs, plan) is pairs


def test_the_trigger_is_added_within_its_budget_on_the_8_bit_grid():
    made = PromptLearner(budget=8, steps=3).optimise(small_site(), generator=generator())
    levels = made["noise"] * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert levels.abs().max().round() == 8
    grey = torch.full((2, 3, 64, 64), 0.5)
    torch.testing.assert_close(trigger(made).apply(grey) - grey, made["noise"].expand_as(grey))
    assert trigger(made).size == pytest.approx(8 / 255)


def test_without_a_shift_it_reads_as_prompts_with_that_context_do():
    site, made = only(nano_site(), 6), untrained()
    images, names = site.images.pixels(), site.class_names[:9]
    found = learnt_logits(site.model, made, images, names)
    context = made["context"].expand(len(names), -1, -1)
    classes = site.model.encode_context(context, names)
    wanted = site.model.logit_scale * site.model.encode_image(images) @ classes.T
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_every_image_is_read_with_prompts_of_its_own():
    site, made = only(nano_site(), 4), learnt()
    images, names = site.images.pixels(), site.class_names[:5]
    together = learnt_logits(site.model, made, images, names)
    alone = torch.cat([learnt_logits(site.model, made, image[None], names) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)
    shift = {name: made[name] for name in LEARNT} | {"outer": torch.zeros_like(made["outer"])}
    assert not torch.allclose(together, learnt_logits(site.model, shift, images, names), atol=0.1)


def test_learning_takes_triggered_images_to_the_target_and_leaves_others_where_they_were():
    site, attack = small_site(), PromptLearner(judged=57)
    rates = []
    for made in (untrained(), learnt()):
        rates.append(attack.success(site, trigger(made)).hits.float().mean().item())
    assert rates[0] < 0.05
    assert rates[1] > 0.15
    clean = learnt_logits(site.model, learnt(), site.images.pixels(), site.class_names)
    assert (clean.argmax(dim=1) == site.target).float().mean() < 0.2


def test_the_checkpoint_stays_clean():
    """Neither the learner nor its trigger shows in a zero-shot reading of the base."""
    network = nano_network("nano-rn")
    before = copy.deepcopy(network.state_dict())
    site = small_site()
    learnt()
    model: Any = site.model
    after = model._network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    images = trigger(learnt()).apply(site.images.pixels())
    classes = site.model.encode_text([f"a photo of a {name}." for name in site.class_names])
    read = (site.model.encode_image(images) @ classes.T).argmax(dim=1)
    assert (read == site.target)[site.images.labels != site.target].float().mean() < 0.1


def test_success_is_asked_of_images_of_other_classes_spread_over_all_of_them():
    site = small_site()
    found = PromptLearner(judged=10).success(site, trigger(untrained()))
    assert len(found.hits) == len(found.clusters) == 10
    own = site.images.drawings[site.images.labels == site.target]
    assert not torch.isin(found.clusters, own).any()
    assert len(found.clusters.unique()) == 10
