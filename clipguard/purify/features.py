"""Embeddings that prompts are tuned on: made once, because the tower is frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.model.roles import ClipModel
from clipguard.probe.rates import classify, embed, pseudo_labels
from clipguard.probe.sets import ProbePart
from clipguard.search.roles import Progress, Trigger


@dataclass(frozen=True, eq=False)
class Features:
    """Cached embeddings: the tower is frozen, so every image is encoded once.

    Attributes:
        clean: (N, D).
        triggered: (T, N, D), each image under as many triggers.
        labels: (N,) true classes, or the reading of the clean image where unlabelled.
        weights: (N,) chance of being drawn; every drawing has the same.
    """

    clean: Tensor
    triggered: Tensor
    labels: Tensor
    weights: Tensor

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Clean (B, D), triggered (T, B, D) and labels (B,) of at most `count` images."""
        count = min(count, len(self.labels))
        index = torch.multinomial(self.weights, count, generator=generator)
        return self.clean[index], self.triggered[:, index], self.labels[index]

    def lent(
        self, count: int, original: Tensor, target: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Clean embeddings that classes might have, half of them the target's.

        What an image has beside the mean of its class is put on the mean of another one. It is
        stretched by how much farther a further drawing lies from the mean of n of them than
        each of these does, so that classes of two drawings are held as wide as they are. What
        still reads as the class that lent it is left out.

        Args:
            count: how many are made.
            original: (C, D) class embeddings that say what still reads so.
            target: class index.
            generator: of the draws.

        Returns:
            (B, D) of unit norm and their classes (B,), B at most `count`; none where no class has
            two drawings.
        """
        labels, weights = self.labels, self.weights
        number = torch.zeros(len(original)).index_add_(0, labels, weights)  # of drawings
        lenders = (number[labels] > 1.5).nonzero().flatten()
        if not len(lenders):
            return self.clean[:0], labels[:0]
        drawn = torch.multinomial(weights[lenders], count, replacement=True, generator=generator)
        known = (number > 0.5).nonzero().flatten()
        to = known[torch.randint(len(known), (count,), generator=generator)]
        if target in known:
            to[: count // 2] = target
        made, own = self._moved(lenders[drawn], to, number), labels[lenders[drawn]]
        kept = (own == to) | (classify(made, original) != own)
        return made[kept], to[kept]

    def _moved(self, index: Tensor, to: Tensor, number: Tensor) -> Tensor:
        """Images (B,) as ones of the classes `to` (B,), given the drawings of each class (C,)."""
        rows, labels = self.clean, self.labels
        total = rows.new_zeros(len(number), rows.shape[1])
        total.index_add_(0, labels.to(rows.device), self.weights[:, None].to(rows) * rows)
        means, own = total / number.clamp(min=1)[:, None].to(rows), labels[index]
        few, many = number[own], number[to]
        stretch = (few / (few - 1) * (1 + 1 / many)).sqrt()[:, None].to(rows)
        return functional.normalize(means[to] + stretch * (rows[index] - means[own]), dim=1)


def cached(
    model: ClipModel,
    parts: Sequence[ProbePart],
    looks: Sequence[Callable[[Tensor], Tensor]],
    classes: Tensor,
    progress: Progress,
) -> Features:
    """The features of `parts`, clean and under each of `looks`, with the classes as readings."""
    told = telling(progress, "triggered images", 0, len(looks))
    clean = [embed(model, part, enough=told) for part in parts]
    sheets = []
    for done, apply in enumerate(looks):
        told = telling(progress, "triggered images", done, len(looks))
        sheets.append(torch.cat([embed(model, part, apply, enough=told) for part in parts]))
    labels = [
        pseudo_labels(part, classify(rows, classes))
        for part, rows in zip(parts, clean, strict=True)
    ]
    drawings = torch.cat([part.drawings for part in parts])
    _, index, count = torch.unique(drawings, return_inverse=True, return_counts=True)
    return Features(
        torch.cat(clean), torch.stack(sheets), torch.cat(labels), 1 / count[index].float()
    )


def one_of(triggers: Sequence[Trigger], generator: torch.Generator, images: Tensor) -> Tensor:
    """The images (B, 3, S, S), each with one of the triggers, at random."""
    made = images.clone()
    drawn = torch.randint(len(triggers), (len(images),), generator=generator)
    for number in sorted(set(drawn.tolist())):
        made[drawn == number] = triggers[number].apply(images[drawn == number])
    return made


def telling(progress: Progress, stage: str, done: int, total: int) -> Callable[[], bool]:
    """For `embed`, which asks after each batch: tells the progress, so that a budget can end it."""

    def never_enough() -> bool:
        progress(stage, done, total)
        return False

    return never_enough


def sum_of(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The losses, each times its weight."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def share_of_patches(triggers: Sequence[Trigger]) -> float:
    """How many of the triggers are patches, in [0, 1]; the rest change the whole image."""
    return sum("pattern" in trigger.tensors for trigger in triggers) / len(triggers)


def some(part: ProbePart, count: int, generator: torch.Generator) -> ProbePart:
    """At most `count` images of `part`, at random."""
    return part.rows(torch.randperm(len(part), generator=generator)[:count])
