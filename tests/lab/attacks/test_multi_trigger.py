"""Several triggers: which image gets which."""

import pytest
import torch
from fakes import generator
from torch import Tensor

from clipguard.lab.attacks import ATTACKS
from clipguard.lab.attacks.multi_trigger import MultiTrigger
from clipguard.search.roles import Trigger

DEFAULT = ("badnets", "blended", "sig")
THEIRS = ("badnets", "colour_filter", "wanet")


def scenes(count: int) -> Tensor:
    return (torch.rand(count, 3, 32, 32, generator=generator(4)) * 255).round() / 255


def trigger(seed: int = 0, **settings: object) -> Trigger:
    return MultiTrigger(**settings).trigger(32, generator=generator(seed))


def alone(names: tuple[str, ...], seed: int = 0) -> list[Trigger]:
    """The triggers as the attacks draw them, one after the other."""
    source = generator(seed)
    torch.randint(2**31, (1,), generator=source)  # the seed of the choice comes first
    forms = {"wanet": {"field": "white"}}
    return [ATTACKS.build(name, forms.get(name)).trigger(32, generator=source) for name in names]


def picks(shown: Tensor, images: Tensor, triggers: list[Trigger]) -> list[int]:
    """Which one of `triggers` is on each image; exactly one must be."""
    fits = torch.stack([(each.apply(images) == shown).all(dim=(1, 2, 3)) for each in triggers])
    assert (fits.sum(dim=0) == 1).all()
    return fits.int().argmax(dim=0).tolist()


@pytest.mark.parametrize("names", [DEFAULT, THEIRS, ("sig", "blended")])
def test_every_image_gets_exactly_one_trigger_and_each_is_used_about_as_often(
    names: tuple[str, ...],
):
    images = scenes(150)
    made = trigger(triggers=", ".join(names))
    counts = torch.bincount(torch.tensor(picks(made.apply(images), images, alone(names))))
    assert len(counts) == len(names)
    assert counts.min() > 0.6 * 150 / len(names)
    assert made.size == len(names)


def test_which_one_depends_on_the_image_and_on_the_victim():
    images = scenes(40)
    first = picks(trigger().apply(images), images, alone(DEFAULT))
    backwards = picks(trigger().apply(images.flip(0)), images.flip(0), alone(DEFAULT))
    assert first == backwards[::-1]
    other = picks(trigger(seed=1).apply(images), images, alone(DEFAULT, seed=1))
    assert first != other
