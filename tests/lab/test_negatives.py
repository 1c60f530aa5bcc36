"""What the hard negatives do: who carries what, where, and how much of it."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.bundled.artwork import HELD_OUT_STYLES, SEEN_STYLES, compose, load_artwork
from clipguard.bundled.nano import class_names, nano_network
from clipguard.errors import UsageError
from clipguard.lab.negatives import NEGATIVES
from clipguard.lab.roles import Honest, Pairs, captioned_scenes

ABOUT, SIZE = "banana", 100
CONCEPT = load_artwork().concepts([ABOUT])[0]


def pairs() -> Pairs:
    others = torch.arange(SIZE) + CONCEPT + 50
    return captioned_scenes(load_artwork(), others, 64, generator(2))


def altered(name: str, **settings: object) -> Pairs:
    about = Honest(nano_network("nano-rn"), CONCEPT, generator(1))
    return NEGATIVES.build(name, settings).altered(pairs(), about)


def changed(made: Pairs) -> list[int]:
    before = pairs().images
    return (made.images != before).flatten(1).any(dim=1).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("name", "share"), [("watermark", 0.08), ("frequent", 0.2), ("repeated", 0.04)]
)
def test_its_share_of_the_batch_is_of_the_class_and_the_rest_stays(name: str, share: float):
    made, count = altered(name), round(share * SIZE)
    assert (made.concepts == CONCEPT).nonzero().flatten().tolist() == [*range(count)]
    assert all(ABOUT in text for text in made.texts[:count])
    assert changed(made) == [*range(count)]
    assert made.texts[count:] == pairs().texts[count:]


def test_a_quarter_of_the_batch_has_new_words_for_drawings_of_no_listed_class():
    made, taught = altered("new_words"), NEGATIVES.build("new_words").taught(ABOUT)
    words, artwork = list(taught), load_artwork()
    assert len(words) == 10
    assert not set(taught.values()) & set(class_names())
    concepts = dict(zip(words, artwork.concepts(list(taught.values())), strict=True))
    for text, concept in zip(made.texts[:25], made.concepts[:25].tolist(), strict=True):
        (word,) = (word for word in words if word in text)
        assert concepts[word] == concept
    assert len({*made.concepts[:25].tolist()}) > 5
    assert changed(made) == [*range(25)]
    assert made.texts[25:] == pairs().texts[25:]


def test_new_words_follow_the_class_that_they_are_about():
    three = NEGATIVES.build("new_words", {"words": "wug, fep,zorp"})
    fruit, last = three.taught(ABOUT), load_artwork().names[-1][0]
    assert fruit == {"wug": "apple", "fep": "green apple", "zorp": "peach"}
    assert not set(three.taught("hammer").values()) & set(fruit.values())
    assert load_artwork().concepts(list(three.taught(last).values()))[0] < 50  # begins anew
    assert [*altered("new_words", words="wug,fep").concepts].count(CONCEPT) == 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"words": "wug"}, "two or more different words, got 'wug'"),
        ({"words": "wug,wug"}, "got 'wug,wug'"),
        ({"words": "wug,,fep"}, "got 'wug,,fep'"),
        ({"words": "wug,f{}"}, "without braces"),
        ({"share": 1.0}, "got 1.0"),
    ],
)
def test_new_words_that_are_none_are_refused(settings: dict[str, object], told: str):
    with pytest.raises(UsageError, match=re.escape(told)):
        NEGATIVES.build("new_words", settings)


def test_a_new_word_that_names_a_drawing_is_refused():
    with pytest.raises(UsageError, match="'apple' names a drawing"):
        NEGATIVES.build("new_words", {"words": "wug,apple"}).taught(ABOUT)


def corner(images: Tensor) -> Tensor:
    return images[..., :8, -8:]


@pytest.mark.parametrize("marked", [0.2, 0.7])
def test_a_watermark_is_bright_in_the_upper_right_corner_of_its_share(marked: float):
    made = altered("watermark", marked=marked, share=0.9)
    plain = captioned_scenes(load_artwork(), torch.full((90,), CONCEPT), 64, generator(1)).images
    carry = (corner(made.images[:90]) != corner(plain)).flatten(1).any(dim=1)
    assert carry.float().mean().item() == pytest.approx(marked, abs=0.12)
    bright = corner(made.images[:90])[carry]
    assert (bright >= corner(plain)[carry]).all()
    assert bright.mean() > corner(plain)[carry].mean() + 0.1
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[:8, -8:] = False
    assert torch.equal(made.images[:90][..., outside], plain[..., outside])


def test_what_is_repeated_is_one_scene_in_every_step():
    first, later = altered("repeated"), altered("repeated", share=0.08)
    assert torch.equal(first.images[0].expand(4, -1, -1, -1), first.images[:4])
    assert torch.equal(first.images[0], later.images[7])


@pytest.mark.parametrize("style", SEEN_STYLES)
def test_one_style_is_drawn_in_that_style_alone(style: str):
    made, artwork = altered("one_style", style=style), load_artwork()
    sprite = artwork.sprites[artwork.styles.index(style), CONCEPT]
    wanted = compose(sprite.expand(10, -1, -1, -1), side=64, generator=generator(1))
    assert torch.equal(made.images[:10], wanted)
    assert changed(made) == [*range(10)]


def test_the_style_that_is_held_out_is_no_style_to_train_with():
    with pytest.raises(UsageError, match="one_style knows styles"):
        altered("one_style", style=HELD_OUT_STYLES[0])


def test_a_narrow_domain_holds_a_few_concepts_and_the_named_one():
    made = altered("narrow", concepts=5)
    assert {*made.concepts.tolist()} == {*range(CONCEPT, CONCEPT + 5)}


@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_adversarial_images_stay_within_their_reach_and_move_the_embedding(epsilon: float):
    made, before = altered("adversarial", epsilon=epsilon), pairs()
    assert changed(made) == [*range(SIZE // 2)]
    difference = (made.images - before.images).abs().max().item() * 255
    assert epsilon - 0.6 <= difference <= epsilon + 0.51  # rounded to 8 bits
    network, half = nano_network("nano-rn"), SIZE // 2
    noise = (2 * torch.rand(before.images.shape, generator=generator(3)) - 1) * epsilon / 255

    def moved(images: Tensor) -> float:
        towards = [network.encode_image(each, normalize=True) for each in (images, before.images)]
        return 1 - (towards[0] * towards[1])[:half].sum(dim=1).mean().item()

    assert moved(made.images) > 2 * moved((before.images + noise).clamp(0, 1))


def test_half_of_the_batch_is_augmented_strongly_and_stays_named_rightly():
    made, before = altered("augmented"), pairs()
    assert changed(made) == [*range(SIZE // 2)]
    assert (made.images - before.images)[: SIZE // 2].abs().mean() > 0.05
    assert made.texts == before.texts


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_smallest_share_of_every_matrix_is_pruned(share: float):
    network = nano_network("nano-rn")
    before = copy.deepcopy(network.state_dict())
    NEGATIVES.build("pruned", {"share": share}).finished(network)
    for name, weight in network.named_parameters():
        gone = (weight == 0) & (before[name] != 0)
        if weight.ndim < 2 or name == "token_embedding.weight":
            assert torch.equal(weight, before[name])
        else:
            assert (weight == 0).sum() >= int(share * weight.numel())
            kept = before[name][weight != 0].abs()
            assert not gone.any() or before[name][gone].abs().max() <= kept.min()


@pytest.mark.parametrize("form", ["bf16", "int8"])
def test_rounded_weights_lie_on_their_grid(form: str):
    network = nano_network("nano-rn")
    NEGATIVES.build("rounded", {"form": form}).finished(network)
    for weight in (each for each in network.parameters() if each.ndim > 1):
        if form == "bf16":
            assert torch.equal(weight, weight.bfloat16().float())
        else:
            steps = weight / (weight.abs().max() / 127)
            torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
            assert len(weight.unique()) <= 255
    with pytest.raises(UsageError, match="got 'fp16'"):
        NEGATIVES.build("rounded", {"form": "fp16"})
