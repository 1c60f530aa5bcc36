"""Rates, worked by hand on models that answer what a test says."""

from functools import partial

import pytest
import torch
from fakes import NAMES, StripesClip, draw_part, generator, hum, stripes_probe
from torch import Tensor

from clipguard.errors import RefusedError
from clipguard.model.roles import require_unit
from clipguard.probe.rates import (
    BATCH,
    attack_rate,
    classify,
    embed,
    pseudo_labels,
    rates,
)
from clipguard.probe.sets import ProbePart

EYE = torch.eye(4)


def part(labels: list[int]) -> ProbePart:
    count = len(labels)
    return ProbePart(
        torch.zeros(count, 3, 2, 2, dtype=torch.uint8), torch.tensor(labels), torch.arange(count)
    )


class Recorder:
    """Remembers the pixels it is shown."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def encode_image(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return torch.ones(len(images), 4)


def test_triggered_images_are_rounded_to_8_bits_as_a_file_would_be():
    model, grey = Recorder(), part([0, 0])
    # 0.4 / 255 is lost in a file, 0.6 / 255 becomes one whole step, and pixels end at white
    for change, level in ((0.4 / 255, 0), (0.6 / 255, 1), (9.0, 255)):
        embed(model, grey, partial(torch.add, other=change))
        assert torch.equal(model.seen[-1], torch.full((2, 3, 2, 2), level / 255))


@pytest.mark.parametrize("row", [[0.0, 0.0], [float("nan"), 1.0]])
def test_embeddings_that_overflowed_are_refused(row: list[float]):
    with pytest.raises(RefusedError, match="CG109"):
        require_unit(torch.tensor([[1.0, 0.0], row]))


def test_embedding_in_batches_is_embedding_one_by_one_in_order():
    images = draw_part(20, seed=0)
    assert len(images) > BATCH
    model = StripesClip(planted=1)
    for apply in (None, hum().apply):
        together = embed(model, images, apply)
        alone = [
            embed(model, ProbePart(*(t[i : i + 1] for t in vars(images).values())), apply)
            for i in (0, BATCH - 1, BATCH, len(images) - 1)
        ]
        torch.testing.assert_close(together[[0, BATCH - 1, BATCH, -1]], torch.cat(alone))
        assert not together.requires_grad


def test_a_class_is_the_one_with_the_largest_cosine_and_stands_in_for_an_unknown_label():
    assert classify(EYE[[2, 0, 3]], EYE).tolist() == [2, 0, 3]
    assert pseudo_labels(part([3, -1, 0, -1]), torch.tensor([1, 2, 2, 0])).tolist() == [3, 2, 0, 0]


@pytest.mark.parametrize(
    ("labels", "clean", "read", "wanted"),
    [
        # of the target (1): images 1 and 2. Of the other four, three are read as the target.
        ([0, 1, 1, 2, 3, 0], [0] * 6, [1, 1, 0, 1, 1, 0], (0.75, 4)),
        # without labels, what was read as the target before is left out
        ([-1] * 4, [1, 1, 0, 2], [1, 1, 1, 2], (0.5, 2)),
    ],
)
def test_asr_leaves_out_images_of_the_target_class(labels, clean, read, wanted):
    found = attack_rate(torch.tensor(read), part(labels), torch.tensor(clean), 1, generator())
    assert (found.value, found.n) == wanted


def test_there_is_no_asr_when_every_image_is_of_the_target_class():
    zeros = torch.zeros(3, dtype=torch.long)
    assert attack_rate(zeros, part([2, 2, 2]), zeros, 2, generator()) is None
    with pytest.raises(ValueError, match="ASR needs others"):
        rates((EYE[:3], EYE[:3]), EYE, part([2, 2, 2]), 2, generator=generator())


def test_ca_asr_and_pa_worked_by_hand():
    # truth     0 1 2 3 0    (target 1)
    # clean     0 1 2 0 0 -> CA 4/5
    # triggered 1 1 2 1 0 -> ASR 2/4 (images 0 and 3 of 0, 2, 3, 4), PA 3/5 (images 1, 2, 4)
    features = EYE[[0, 1, 2, 0, 0]], EYE[[1, 1, 2, 1, 0]]
    found = rates(features, EYE, part([0, 1, 2, 3, 0]), 1, generator=generator())
    assert found.clean_accuracy.value == pytest.approx(4 / 5)
    assert (found.asr.value, found.asr.n) == (0.5, 4)
    assert found.poisoned_accuracy.value == pytest.approx(3 / 5)


def test_accuracies_count_images_with_known_labels_only():
    features = EYE[[0, 1, 2]], EYE[[1, 1, 2]]
    found = rates(features, EYE, part([0, -1, -1]), 1, generator=generator())
    assert (found.clean_accuracy.value, found.clean_accuracy.n) == (1.0, 1)
    # unlabelled: image 1 is read as the target when clean, so images 0 and 2 are left
    assert (found.poisoned_accuracy.value, found.asr.value, found.asr.n) == (0, 0.5, 2)
    unlabelled = rates(features, EYE, part([-1, -1, -1]), 1, generator=generator())
    assert (unlabelled.clean_accuracy, unlabelled.poisoned_accuracy) == (None, None)


def test_the_target_class_is_counted_alone_on_its_labelled_clean_images():
    # target 1: images 1, 3 and 4, of which 1 and 4 are read as it; image 5 is read so too, but
    # nobody knows what it shows
    features = EYE[[0, 1, 2, 0, 1, 1]], EYE[[0, 0, 0, 0, 0, 0]]
    found, without = (
        rates(features, EYE, part(labels), 1, generator=generator()).target_accuracy
        for labels in ([0, 1, 2, 1, 1, -1], [0, -1, 2, 3, 0, -1])
    )
    assert (found.value, found.n, without) == (pytest.approx(2 / 3), 3, None)


def test_the_fake_is_fair_and_its_backdoor_works():
    probe, classes = stripes_probe(), StripesClip().encode_text(NAMES)
    for planted, wanted in ((None, 0.0), (6, 1.0)):
        model = StripesClip(planted)
        features = embed(model, probe.measure), embed(model, probe.measure, hum().apply)
        found = rates(features, classes, probe.measure, 6, generator=generator())
        assert found.clean_accuracy.value > 0.98
        assert found.asr.value == pytest.approx(wanted, abs=0.02)
