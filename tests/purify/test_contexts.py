"""Contexts of many classes: which a step tunes, and what the others keep."""

from collections.abc import Sequence

import pytest
import torch
from fakes import NAMES, StripesClip, generator

from clipguard.purify.contexts import Contexts

TARGET = 3
SOME = 2


def tuned_rows(contexts: Contexts, draws: torch.Generator) -> tuple[torch.Tensor, set[int]]:
    """The embeddings of a step, and the classes whose contexts get a gradient from them."""
    found = contexts.turn(TARGET, draws)
    (grad,) = torch.autograd.grad(found[:, 0].sum() + found[:, 1].sum(), contexts.values)
    return found.detach(), set(grad.flatten(1).abs().sum(dim=1).nonzero().flatten().tolist())


def test_few_classes_are_all_tuned_in_each_step():
    contexts = Contexts(StripesClip(), NAMES, len(NAMES))
    found, rows = tuned_rows(contexts, generator())
    assert rows == set(range(len(NAMES)))
    torch.testing.assert_close(found, contexts.every())


def test_of_many_classes_the_target_and_others_take_turns():
    contexts, draws = Contexts(StripesClip(), NAMES, SOME), generator()
    before, seen = contexts.every(), set[int]()
    for _ in range(40):
        found, rows = tuned_rows(contexts, draws)
        assert TARGET in rows
        assert len(rows) == SOME
        torch.testing.assert_close(found, before)
        seen |= rows
    assert seen == set(range(len(NAMES)))


def test_a_class_keeps_the_embedding_of_its_last_turn():
    contexts, draws = Contexts(StripesClip(), NAMES, SOME), generator()
    before, _ = tuned_rows(contexts, draws)
    with torch.no_grad():
        contexts.values += 1.0
    found, rows = tuned_rows(contexts, draws)
    others = [row for row in range(len(NAMES)) if row not in rows]
    torch.testing.assert_close(found[others], before[others])
    torch.testing.assert_close(found[list(rows)], contexts.every()[list(rows)])
    assert not torch.allclose(found[list(rows)], before[list(rows)])


def test_a_step_moves_the_classes_of_its_turn_alone():
    contexts, draws = Contexts(StripesClip(), NAMES, SOME), generator()
    for _ in range(3):  # Adam's moments of earlier turns must move nothing
        before, found = contexts.values.detach().clone(), contexts.turn(TARGET, draws)
        (grad,) = torch.autograd.grad(found[:, 0].sum(), contexts.values, retain_graph=True)
        contexts.step(found[:, 0].sum(), 0.1)
        moved = (contexts.values != before).flatten(1).any(dim=1)
        assert moved.sum() == SOME
        assert moved[grad.flatten(1).any(dim=1)].all()


class Elsewhere(StripesClip):
    """On a device that is not the one where indices are drawn, as a GPU is not."""

    device = torch.device("meta")

    def embed_tokens(self, text: str) -> torch.Tensor:
        return super().embed_tokens(text).to(self.device)

    def encode_context(self, context: torch.Tensor, class_names: Sequence[str]) -> torch.Tensor:
        return context.mean(dim=1)


@pytest.mark.parametrize("at_once", [SOME, len(NAMES)])
def test_the_contexts_stay_on_the_device_of_the_model(at_once: int):
    contexts = Contexts(Elsewhere(), NAMES, at_once)
    for _ in range(2):
        contexts.step(contexts.turn(TARGET, generator()).sum(), 0.1)
    assert contexts.every().device == contexts.values.device == Elsewhere.device
