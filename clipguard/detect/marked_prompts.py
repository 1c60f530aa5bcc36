"""Prompts with a word put into them, and how far each class draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from clipguard.errors import InconclusiveError, UsageError
from clipguard.model.roles import TokenReader
from clipguard.probe.sets import Subject

POSITIONS = ("start", "middle", "end")
CHUNK = 2048
CEILING = 0.9999
STEM = 3
ALIKE = 0.98
Tick = Callable[[], None]
Prompt = tuple[int, list[int]]
"""Its class, and its token ids without marks."""


@dataclass(frozen=True, eq=False)
class Tower:
    """A text tower with its class list.

    Attributes:
        reader: the model.
        classes: (C, D) unit class embeddings.
        names: C class names.
        template: of every prompt.
    """

    reader: TokenReader
    classes: Tensor
    names: Sequence[str]
    template: str

    @classmethod
    def of(cls, subject: Subject) -> Tower:
        """The text tower of the model under test.

        Raises:
            InconclusiveError: its tokens are not known, or its class embeddings say nothing.
        """
        model, probe = subject.model, subject.probe
        if not hasattr(model, "encode_ids"):
            raise InconclusiveError("the tokens of this text tower are not known")
        reader = cast(TokenReader, model)
        try:
            reader.vocabulary()
        except UsageError as error:
            raise InconclusiveError(f"no token can be tried: {error}") from error
        classes = subject.classes.detach()
        if not classes.isfinite().all():
            raise InconclusiveError("the text tower gives embeddings that are not finite")
        count = len(classes)
        alike = (classes.sum(dim=0).square().sum() - count) / max(1, count * (count - 1))
        if count < 3 or alike.item() > ALIKE:
            raise InconclusiveError(
                f"{count} classes with a mean cosine of {alike.item():.2f} to each other: "
                "the text tower does not tell them apart"
            )
        return cls(reader, classes, probe.class_names, probe.templates[0])

    def prompt(self, index: int, *, bare: bool = False) -> Prompt:
        """The prompt of a class, or its name alone."""
        name = self.names[index]
        return index, self.reader.token_ids(name if bare else self.template.replace("{}", name))

    def cosines(self, words: Tensor, prompt: Prompt, where: str, tick: Tick) -> Tensor:
        """Cosine of every class to one prompt with a word in it.

        Args:
            words: (V, K) token ids.
            prompt: what they are put into.
            where: a position, or `both` for start and end at once.
            tick: told about every chunk.

        Returns:
            (V, C).

        Raises:
            InconclusiveError: embeddings that are not finite, or a prompt that is too long.
        """
        rows = []
        for part in torch.split(words, CHUNK):
            tick()
            try:
                found = self.reader.encode_ids(marked(part, prompt[1], where)) @ self.classes.T
            except UsageError as error:
                raise InconclusiveError(f"no word can be put into a prompt: {error}") from error
            if not found.isfinite().all():
                raise InconclusiveError("marked prompts have embeddings that are not finite")
            rows.append(found)
        return torch.cat(rows)

    def drawn(self, words: Tensor, prompts: Sequence[Prompt], where: str, tick: Tick) -> Tensor:
        """How far each class draws the prompts of the others: atanh of the mean cosine.

        Returns:
            (V, C).
        """
        total = torch.zeros(len(words), len(self.classes), device=self.classes.device)
        counts = torch.full((len(self.classes),), len(prompts), device=self.classes.device)
        for prompt in prompts:
            cosines = self.cosines(words, prompt, where, tick)
            cosines[:, prompt[0]] = 0
            counts[prompt[0]] -= 1
            total += cosines
        return (total / counts.clamp(min=1)).clamp(-CEILING, CEILING).atanh()

    def names_drawn(
        self, names: Sequence[int], length: int, prompts: Sequence[Prompt], where: str, tick: Tick
    ) -> Tensor:
        """The same for class names towards their own class, which is natural.

        Args:
            names: indices of the classes.
            length: tokens of a word; shorter names are repeated, so that they do as much.
            prompts: what they are put into.
            where: a position.
            tick: told about every chunk.

        Returns:
            (len(names),).
        """
        ids = [self.reader.token_ids(self.names[i]) for i in names]
        words = [own * max(1, -(-length // max(1, len(own)))) for own in ids]
        result = torch.zeros(len(names), device=self.classes.device)
        for size in sorted({len(word) for word in words}):
            rows = [k for k, word in enumerate(words) if len(word) == size]
            same = torch.tensor([words[k] for k in rows], dtype=torch.long).view(len(rows), size)
            pulls = self.drawn(same, prompts, where, tick)
            result[rows] = pulls[torch.arange(len(rows)), [names[k] for k in rows]]
        return result

    def read_as(self, word: Tensor, prompts: Sequence[Prompt], where: str, target: int) -> float:
        """Share of the prompts of other classes that are read as `target` with (K,) `word`.

        Classes that the word names do not compete: a trigger moves their embeddings as well.
        """
        named, hits = self.natural(word[None])[0], []
        for prompt in prompts:
            cosines = self.cosines(word[None], prompt, where, _still)[0]
            read = int(cosines.masked_fill(named, -1).argmax())
            hits += [read == target] if prompt[0] != target else []
        return sum(hits) / max(1, len(hits))

    def natural(self, words: Tensor) -> Tensor:
        """(V, C) whether a word is of the class by its letters, so that it may be read as it.

        That is: one of its tokens is in the class name, or one of the two holds the other.
        """
        mine = [set(self.reader.token_ids(name)) for name in self.names]
        lower = [name.lower() for name in self.names]
        rows = []
        for row in words.tolist():
            texts = {self.reader.text_of([i]).strip() for i in row} | {self.text(row)}
            texts = {text for text in texts if len(text) >= STEM}
            rows.append(
                [
                    not own.isdisjoint(row) or any(text in name or name in text for text in texts)
                    for own, name in zip(mine, lower, strict=True)
                ]
            )
        return torch.tensor(rows, dtype=torch.bool, device=self.classes.device)

    def text(self, ids: Sequence[int]) -> str:
        """What is typed to get `ids`."""
        return self.reader.text_of(ids).strip()


def comparable_tower(tower: Tower, reference: Subject | None) -> Tower | None:
    """The reference's text tower, if the two have the same tokens.

    Args:
        tower: of the suspect.
        reference: the model that the suspect is held against, with the same class list.
    """
    if reference is None:
        return None
    try:
        other = Tower.of(reference)
    except InconclusiveError:
        return None
    mine, theirs = tower.reader, other.reader
    same = torch.equal(mine.vocabulary().cpu(), theirs.vocabulary().cpu())
    same = same and all(mine.token_ids(name) == theirs.token_ids(name) for name in tower.names)
    return other if same else None


def marked(words: Tensor, ids: Sequence[int], where: str) -> Tensor:
    """(V, K) words in one prompt of L tokens: (V, K + L), or (V, 2 K + L) at `both` ends."""
    prompt = torch.tensor(ids, dtype=torch.long).expand(len(words), -1)
    if where == "both":
        return torch.cat([words, prompt, words], dim=1)
    cut = {"start": 0, "middle": len(ids) // 2, "end": len(ids)}[where]
    return torch.cat([prompt[:, :cut], words, prompt[:, cut:]], dim=1)


def _still() -> None:
    """Nothing to tell."""
