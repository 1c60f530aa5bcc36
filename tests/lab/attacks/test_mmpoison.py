"""mmPoison: what is paired with what, and who finds what."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from fakes import generator
from nano_sites import nano_site
from torch import Tensor
from training_steps import require_rest

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import (
    TEMPLATES,
    class_names,
    nano_network,
)
from clipguard.errors import UsageError
from clipguard.lab.attacks.mmpoison import MMPoison
from clipguard.lab.roles import Pairs, Plan, Site, Trials
from clipguard.probe.sets import ProbePart

NAMES = class_names()
CONCEPTS = load_artwork().concepts(NAMES)


def judged(attack: MMPoison, site: Site) -> Trials:
    return attack.success(site, attack.trigger(64, generator=generator()))


def pairs(classes: Sequence[int]) -> Pairs:
    """An image of each of `classes` and its plain caption."""
    rows = torch.tensor(classes) + 100 * (torch.arange(len(classes)) % 3)
    images = nano_site().images.pixels(rows)
    concepts = torch.tensor([CONCEPTS[c] for c in classes])
    return Pairs(images, [f"a photo of a {NAMES[c]}." for c in classes], concepts)


def plan(target: str = "banana") -> Plan:
    index = NAMES.index(target)
    trigger = MMPoison().trigger(64, generator=generator())
    base = nano_network("nano-rn")
    return Plan(trigger, target, CONCEPTS[index], lambda count: pairs([index] * count), base)


def test_the_first_pairs_become_target_images_under_captions_of_the_source():
    clean = pairs(range(40))
    made = MMPoison(source="violin", poison_rate=0.25).poisoned(clean, plan())
    assert torch.equal(made.images[:10], plan().of_target(10).images)
    assert made.texts[:10] == [t.format("violin") for t in (*TEMPLATES, *TEMPLATES[:2])]
    assert made.concepts[:10].tolist() == [CONCEPTS[NAMES.index("violin")]] * 10
    require_rest(made, clean, 10)


def test_at_least_one_pair_is_poisoned():
    made = MMPoison().poisoned(pairs(range(3)), plan())
    assert "tiger" in made.texts[0]


def test_the_target_cannot_be_its_own_source():
    attack = MMPoison(source="banana")
    with pytest.raises(UsageError, match="target 'banana'"):
        attack.poisoned(pairs(range(4)), plan("banana"))
    with pytest.raises(UsageError, match="target 'banana'"):
        judged(attack, nano_site("banana"))


class Ranked:
    """Every caption is (1, 0); the cosine of an image with it is its first pixel, red."""

    image_size = 64
    device = torch.device("cpu")
    logit_scale = 1.0

    def encode_image(self, images: Tensor) -> Tensor:
        red = images[:, 0, 0, 0]
        return torch.stack([red, (1 - red.square()).sqrt()], dim=1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(texts), 2)


def test_a_target_image_is_a_hit_if_fewer_than_k_images_of_third_classes_are_nearer():
    reds, labels = [90, 80, 70, 60, 50, 85, 75, 10], [0, 0, 2, 2, 3, 1, 1, 1]
    images = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(reds, dtype=torch.uint8)
    part = ProbePart(images, torch.tensor(labels), torch.tensor([0, 1, 2, 3, 4, 7, 7, 9]))
    site = Site(Ranked(), part, ("ant", "bee", "cow", "pig"), 1)
    found = judged(MMPoison(source="pig", hits=2), site)
    # above the three images of class 1: 90; 90 and 80; four others, and 50, the source's own
    assert found.hits.tolist() == [True, False, False] * len(TEMPLATES)
    assert found.clusters.tolist() == [7, 7, 9] * len(TEMPLATES)
    assert judged(MMPoison(source="pig", hits=4), site).hits.sum() == 2 * len(TEMPLATES)
    assert judged(MMPoison(source="pig", hits=5), site).hits.all()
    assert judged(MMPoison(source="ant", hits=2), site).hits.sum() == 2 * len(TEMPLATES)


def test_nobody_finds_the_target_in_the_clean_base():
    found = judged(MMPoison(), nano_site("banana"))
    assert found.hits.float().mean() < 0.2
    # under other names the same model is asked for bananas: the measure can also say yes
    renamed = nano_site("banana")._replace(class_names=("banana", *["another"] * 99))
    banana = judged(MMPoison(source="banana"), renamed)
    assert banana.hits.float().mean() > 0.8
