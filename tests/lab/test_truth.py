"""What the lab knows and a scan does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import class_names
from clipguard.lab import truth
from clipguard.lab.truth import Loss, lab_images, look, zero_shot
from clipguard.probe.load import Scenes, bundled_probe
from clipguard.probe.sets import ProbePart
from clipguard.record import Rates
from clipguard.search.roles import Trigger

COUNT = 100
TARGET = 7


class Answers:
    """Answers the class written into the first pixel of an image; a white last pixel says 7."""

    device = torch.device("cpu")
    image_size = 2

    def __init__(self, wrong: Sequence[int] = (), planted: bool = False) -> None:
        self.wrong, self.planted = set(wrong), planted

    def encode_image(self, images: Tensor) -> Tensor:
        answers = (images[:, 0, 0, 0] * 255).round().long()
        told = [(c + 1) % COUNT if c in self.wrong else c for c in answers.tolist()]
        if self.planted:
            white = (images[:, 0, -1, -1] > 0.99).tolist()
            told = [TARGET if w else c for w, c in zip(white, told, strict=True)]
        return torch.eye(COUNT)[told]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(COUNT)[[class_names().index(t[13:-1]) for t in texts]]


def numbered() -> ProbePart:
    """Two images of every class that show its number."""
    labels = torch.arange(COUNT).repeat(2)
    images = labels.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8).clone()
    return ProbePart(images, labels, torch.arange(2 * COUNT))


def white_pixel() -> Trigger:
    def apply(images: Tensor) -> Tensor:
        stamped = images.clone()
        stamped[..., -1, -1] = 1
        return stamped

    return Trigger("badnets", apply, 0.25, "share of the image", {})


def truth_rates(
    model: Answers, images: ProbePart, trigger: Trigger | None, target: int, head=None
) -> Rates:
    """What `truth.truth_rates` says of a model that looks at images."""
    classes = zero_shot(model) if head is None else head
    return truth.truth_rates(look(model, images, trigger), classes, target)


def paired_loss(model: Answers, twin: Answers, images: ProbePart, head=None) -> Loss:
    """What `truth.paired_loss` says of two models that look at the same images."""
    mine, twins = (look(each, images, None) for each in (model, twin))
    classes = zero_shot(model) if head is None else head
    return truth.paired_loss(mine, classes, twins, zero_shot(twin))


def test_the_zero_shot_classifier_knows_the_bundled_classes_in_order():
    assert torch.equal(zero_shot(Answers()), torch.eye(COUNT))


def test_rates_under_the_true_trigger_worked_by_hand():
    found = truth_rates(Answers(wrong=[0, 1], planted=True), numbered(), white_pixel(), TARGET)
    assert found.clean_accuracy.value == pytest.approx(0.98)
    assert (found.asr.value, found.asr.n) == (1.0, 198)
    assert found.poisoned_accuracy.value == pytest.approx(0.01)


def test_without_a_trigger_asr_is_natural_confusion():
    found = truth_rates(Answers(wrong=[TARGET - 1]), numbered(), None, TARGET)
    assert found.asr.value == pytest.approx(2 / 198)
    assert found.poisoned_accuracy == found.clean_accuracy


def test_another_head_is_read_when_one_is_given():
    turned = torch.eye(COUNT).roll(1, dims=0)  # answers the class after the true one
    found = truth_rates(Answers(), numbered(), None, TARGET, turned)
    assert found.clean_accuracy.value == 0


def test_the_loss_is_paired_against_the_twin_on_the_same_images():
    # the victim loses classes 0, 1 and 2, the twin classes 2 and 3: 3 - 2 of 100
    loss = paired_loss(Answers(wrong=[0, 1, 2]), Answers(wrong=[2, 3]), numbered())
    assert loss.value == pytest.approx(0.01)
    assert loss.low < loss.value < loss.high
    same = paired_loss(Answers(wrong=[0, 1, 2]), Answers(wrong=[0, 1, 2]), numbered())
    assert tuple(same) == (0, 0, 0)


def test_the_loss_of_a_purified_victim_is_read_with_its_head_and_the_twin_without():
    turned = torch.eye(COUNT).roll(1, dims=0)
    assert paired_loss(Answers(), Answers(), numbered(), turned).value == 1


@pytest.mark.parametrize("held_out", [False, True])
def test_lab_images_hold_every_drawing_of_every_class_equally_often(held_out: bool):
    part = lab_images(held_out=held_out, seed=0, scenes=1)
    styles = 1 if held_out else 3
    assert part.images.shape == (300, 3, truth.SIDE, truth.SIDE)
    assert Counter(part.labels.tolist()) == dict.fromkeys(range(COUNT), 3)
    assert set(Counter(part.drawings.tolist()).values()) == {3 // styles}
    concepts = load_artwork(held_out).concepts(class_names())
    total = len(load_artwork(held_out).names)
    assert (part.drawings % total).tolist() == [concepts[i] for i in part.labels]


def test_lab_images_come_at_the_side_of_the_model():
    assert lab_images(held_out=False, seed=0, scenes=1, side=80).images.shape[1:] == (3, 80, 80)


def test_lab_images_are_drawn_by_their_seed_and_are_never_those_of_a_scan():
    first, same, other = (lab_images(held_out=False, seed=seed, scenes=1) for seed in (0, 0, 1))
    assert torch.equal(first.images, same.images)
    assert not torch.equal(first.images, other.images)
    scanned = bundled_probe(truth.SIDE, Scenes(optimise=1, select=1, measure=1), seed=0)
    known = {image.numpy().tobytes() for image in scanned.measure.images}
    assert not known & {image.numpy().tobytes() for image in first.images}
