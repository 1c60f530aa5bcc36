"""One learnable context per class, of which a step may tune some only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clipguard.model.roles import PromptTunable

START = "a photo of a"


@dataclass(eq=False)
class Contexts:
    """The contexts and the class embeddings that they give.

    Of more than `at_once` classes a step tunes the target and others drawn at random. The rest
    stay where they are, with the embeddings of their last turn.

    Attributes:
        model: whose text tower reads them; it stays frozen.
        names: C class names.
        at_once: most classes that one step tunes, 1 or more.
        values: (C, K, E) context tokens, at first those of "a photo of a" for every class.
    """

    model: PromptTunable
    names: Sequence[str]
    at_once: int
    values: Tensor = field(init=False)
    _still: Tensor = field(init=False)
    _known: Tensor | None = field(init=False, default=None)
    _adam: torch.optim.Adam = field(init=False)

    def __post_init__(self) -> None:
        """Start every class alike."""
        start = self.model.embed_tokens(START).expand(len(self.names), -1, -1)
        self.values = start.clone().requires_grad_()
        self._still = torch.arange(0)
        self._adam = torch.optim.Adam([self.values])

    def turn(self, target: int, generator: torch.Generator) -> Tensor:
        """(C, D) unit rows; those of this step's classes carry a gradient.

        Args:
            target: index of the class that every step tunes.
            generator: draws the others.
        """
        if len(self.names) <= self.at_once:
            return self.model.encode_context(self.values, self.names)
        if self._known is None:
            self._known = self.every()
        order = torch.randperm(len(self.names), generator=generator)
        order = torch.cat([torch.tensor([target]), order[order != target]])
        rows, self._still = order[: self.at_once], order[self.at_once :]
        made = self.model.encode_context(self.values[rows], [self.names[row] for row in rows])
        found = self._known.index_copy(0, rows.to(made.device), made)
        self._known = found.detach()
        return found

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """A step of Adam for the classes of the last turn; its moments would move others, too.

        Args:
            loss: of the embeddings that `turn` gave.
            learning_rate: of this step.
        """
        before = self.values[self._still].detach()
        # Asked for by name: the model's own .grad must stay empty.
        (self.values.grad,) = torch.autograd.grad(loss, self.values)
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        with torch.no_grad():
            self.values[self._still] = before

    @torch.no_grad()
    def every(self) -> Tensor:
        """(C, D) unit rows of all classes, without a gradient."""
        starts = range(0, len(self.names), self.at_once)
        parts = [slice(start, start + self.at_once) for start in starts]
        return torch.cat(
            [self.model.encode_context(self.values[part], self.names[part]) for part in parts]
        )
