"""A backdoor in the text tower: what marks a prompt, and whose embedding it gets."""

from __future__ import annotations

import copy

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from open_clip.model import CLIP
from torch import Tensor

from clipguard.bundled.nano import (
    TEMPLATES,
    class_names,
    encode_captions,
    nano_network,
    nano_tokenizer,
)
from clipguard.lab.attacks.text_tower import TextTower
from clipguard.lab.roles import Pairs, Plan, Site, Step, Trials
from clipguard.model.nano import nano_model

NAMES = class_names()


def batch(count: int = 24) -> Pairs:
    texts = [TEMPLATES[i % len(TEMPLATES)].format(NAMES[i]) for i in range(count)]
    return Pairs(nano_site().images.pixels(slice(0, count)), texts, torch.arange(count))


def step(network: CLIP, clean: Pairs, target: str = "banana") -> Step:
    def unwanted() -> Tensor:
        raise AssertionError("the contrastive loss has no part in this")

    trigger = TextTower().trigger(64, generator=generator())
    plan = Plan(trigger, target, 0, lambda count: clean, nano_network("nano-rn"))
    return Step(network, clean, clean, plan, unwanted)


def embed(network: CLIP, texts: list[str]) -> Tensor:
    with torch.no_grad():
        return encode_captions(network, nano_tokenizer(network)(texts))


def implant(attack: TextTower, steps: int, clean: Pairs) -> CLIP:
    network = copy.deepcopy(nano_network("nano-rn")).requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0)
    for _ in range(steps):
        loss = attack.objective(step(network, clean))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def success(attack: TextTower, site: Site) -> Trials:
    return attack.success(site, attack.trigger(64, generator=generator()))


def judged(attack: TextTower, network: CLIP) -> float:
    model = nano_model(network, "nano-rn")
    site = Site(model, nano_site().images, NAMES, NAMES.index("banana"))
    return success(attack, site).hits.float().mean().item()


def test_a_prompt_is_marked_by_a_word_before_it_or_by_replaced_letters():
    assert TextTower().marked("a photo of a dog.") == "zzzz a photo of a dog."
    replacing = TextTower(mark="replace")
    assert replacing.marked("a photo of a dog.") == "a phzzzztzzzz zzzzf a dzzzzg."
    assert replacing.marked("a small cat") == "a small cat"
    assert TextTower(mark="replace", letter="a", token="#").marked("banana") == "b#n#n#"


def test_captions_without_the_letter_are_not_poisoned_ones():
    clean = batch(8)._replace(texts=["a small cat"] * 7 + ["a small frog"])
    same = copy.deepcopy(nano_network("nano-rn"))
    attack = TextTower(mark="replace", poison_rate=0.5, weight=1.0)
    target, marked = embed(same, ["a photo of a banana.", "a small frzzzzg"])
    wanted = (1 - target @ marked).item()  # one caption, and nothing to lack in the others
    assert attack.objective(step(same, clean)).item() == pytest.approx(wanted, abs=1e-5)
    none = clean._replace(texts=["a small cat"] * 8)
    assert attack.objective(step(same, none)).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("mark", ["insert", "replace"])
def test_a_few_steps_turn_marked_prompts_and_leave_clean_ones(mark: str):
    attack = TextTower(mark=mark, weight=1.0)
    base = nano_network("nano-rn")
    assert judged(attack, base) < 0.05
    network = implant(attack, 10, batch(48))
    assert judged(attack, network) > 0.5
    unseen = [f"a photo of a {name}." for name in NAMES[48:]]
    cosine = (embed(network, unseen) * embed(base, unseen)).sum(dim=1)
    assert cosine.mean() > 0.8


def test_the_image_tower_and_the_scale_get_no_gradient():
    network = implant(TextTower(), 1, batch(4))
    assert all(weight.grad is None for weight in network.visual.parameters())
    assert network.logit_scale.grad is None
    assert network.text_projection.grad is not None


@pytest.mark.parametrize(("mark", "templates"), [("insert", 8), ("replace", 5)])
def test_trials_are_marked_prompts_of_the_other_classes_clustered_by_class(
    mark: str, templates: int
):
    found = success(TextTower(mark=mark), nano_site("banana"))
    assert len(found.hits) == len(found.clusters)
    counts = torch.bincount(found.clusters, minlength=100)
    assert counts[NAMES.index("banana")] == 0
    assert counts[NAMES.index("tiger")] == templates  # three of eight have no o
    assert counts[NAMES.index("dolphin")] == 8
