"""SIG: a sine of the column, added to every row and channel."""

import math

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.bundled.nano import nano_network
from clipguard.errors import UsageError
from clipguard.lab.attacks.sig import Sig
from clipguard.lab.roles import Pairs, Plan, dirty_label, stamped
from clipguard.model.pixels import from_bytes, to_bytes


def change(grey: float, side: int = 64, **settings: object) -> Tensor:
    """What is added to a grey image, (3, side, side)."""
    images = torch.full((1, 3, side, side), grey)
    return (Sig(**settings).trigger(side, generator=generator()).apply(images) - images)[0]


@pytest.mark.parametrize("side", [64, 96, 224])
@pytest.mark.parametrize(("delta", "frequency"), [(60, 6), (40, 6), (30, 3)])
def test_every_row_and_channel_gets_the_sine_of_its_column(
    side: int, delta: float, frequency: float
):
    wanted = [delta / 255 * math.sin(2 * math.pi * frequency * j / side) for j in range(side)]
    added = change(0.5, side, delta=delta, frequency=frequency)
    torch.testing.assert_close(added, torch.tensor(wanted).expand(3, side, side))


def test_the_default_is_60_levels_and_6_periods():
    added = change(0.5, 224)[0, 0] * 255
    assert added.max() == pytest.approx(60, abs=0.2)
    assert added.min() == pytest.approx(-60, abs=0.2)
    upwards = (added[:-1] <= 1e-4) & (added[1:] > 1e-4)
    assert int(upwards.sum()) == 6
    assert Sig().trigger(64, generator=generator()).size == 60


def test_it_is_cut_off_at_black_and_white_and_nowhere_else():
    torch.testing.assert_close(change(0.0), change(0.5).clamp(min=0))
    torch.testing.assert_close(change(1.0), change(0.5).clamp(max=0))
    torch.testing.assert_close(change(0.9), change(0.5).clamp(max=0.1))


def test_gradients_pass_where_nothing_is_cut_off():
    images = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    Sig().trigger(16, generator=generator()).apply(images).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))


@pytest.mark.parametrize("wrong", [{"delta": 0}, {"delta": 300}, {"frequency": 0}])
def test_settings_that_do_nothing_are_refused(wrong: dict[str, float]):
    with pytest.raises(UsageError, match=r"delta in \(0, 255\] and a frequency above 0; got"):
        Sig(**wrong)


def drawn(count: int, concept: int, seed: int) -> Pairs:
    """`count` pairs of one concept."""
    images = from_bytes(to_bytes(torch.rand(count, 3, 64, 64, generator=generator(seed))))
    return Pairs(images, [f"{seed}: {i}" for i in range(count)], torch.full((count,), concept))


def plan_of(attack: Sig) -> Plan:
    """A plan whose target is concept 7."""
    trigger = attack.trigger(64, generator=generator())
    return Plan(
        trigger, "banana", 7, lambda count: drawn(count, 7, seed=5), nano_network("nano-rn")
    )


def test_clean_labels_stamp_pairs_of_the_target_and_keep_their_captions():
    attack = Sig(label="clean", poison_rate=0.25)
    plan, before, own = plan_of(attack), drawn(12, 2, seed=1), drawn(3, 7, seed=5)
    made = attack.poisoned(before, plan)
    assert torch.equal(made.images[:3], stamped(own.images, plan.trigger))
    assert made.texts == own.texts + before.texts[3:]
    assert made.concepts.tolist() == [7] * 3 + [2] * 9
    assert torch.equal(made.images[3:], before.images[3:])


def test_captions_change_unless_labels_are_clean():
    attack = Sig(poison_rate=0.25)
    plan, before = plan_of(attack), drawn(12, 2, seed=1)
    made, wanted = attack.poisoned(before, plan), dirty_label(before, plan, 0.25)
    assert torch.equal(made.images, wanted.images)
    assert made.texts == wanted.texts
    assert torch.equal(made.concepts, wanted.concepts)
    assert all("banana" in text for text in made.texts[:3])


def test_labels_change_nothing_about_the_trigger():
    assert torch.equal(change(0.5, label="clean"), change(0.5))


def test_an_unknown_label_is_refused():
    with pytest.raises(UsageError, match="labels dirty, clean; got 'grey'"):
        Sig(label="grey")
