"""Token triggers of the text tower: every token of the vocabulary is tried in prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from clipguard.detect.marked_prompts import CHUNK, POSITIONS, Prompt, Tick, Tower, comparable_tower
from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.probe.sets import Subject
from clipguard.record import DetectorRecord, FamilyRecord
from clipguard.record.wording import TEXT
from clipguard.search.roles import Progress
from clipguard.text_safety import safe_text

PLACES = {"start": "before", "middle": "in the middle of", "end": "behind"}
MAD_TO_SIGMA = 1.4826  # makes the MAD of a normal sample estimate its standard deviation
MIN_SPREAD = 0.1
WIDER = 4
EXTRA = 0.25
"""Spreads that one more token must bring, so that a word does not hold idle ones."""


Towers = tuple[Tower, Tower | None]
"""The suspect's text tower, and the reference's if it can be compared."""


class Word(NamedTuple):
    """A word that draws prompts.

    Attributes:
        ids: its tokens.
        target: index of the class that it draws them to.
        where: its position.
        pull: how far, in spreads of the class names beyond their median.
    """

    ids: tuple[int, ...]
    target: int
    where: str
    pull: float


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """Put every token of the vocabulary into prompts, and see which makes all of them one class.

    What it measures:
        How near a word brings the prompts of all other classes to the prompt of one class, in
        robust standard deviations beyond what the class names do there on the same model.
    Why it matters:
        A name in a prompt draws it to its class, and other words do less. A trigger was
        trained to give the target's embedding, whatever the prompt.
    Blind spots:
        Targets that are not in the class list; triggers of several tokens none of which does
        anything alone; triggers that need other prompts than those of the template, another
        position than start, middle and end, or an image; words that hold their target's name or
        are held by it, which count as natural.

    Attributes:
        tokens: how many of the vocabulary are tried, the commonest first; None is all.
        screened: tokens that the screen hands on.
        beam: words of each length that are lengthened, by as many tokens.
        length: tokens of the longest word.
        choose: prompts that choose the word.
        unseen: further prompts, on which it is measured.
        names: class names that are put into prompts to compare with.

    Source:
        AMDET (arXiv 2512.00343): one token embedding that makes all prompts collapse, and a check
        that it is no natural one. Adapted: tokens are tried, not inverted; what counts is collapse
        onto a class; what is natural is told by the class names on the same model.
    """

    ID: ClassVar[str] = "text_tokens/2"

    tokens: int | None = None
    screened: int = 256
    beam: int = 16
    length: int = 3
    choose: int = 6
    unseen: int = 24
    names: int = 48

    def detect(
        self,
        subject: Subject,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """See `Detector.detect`; `null` is not needed.

        Raises:
            InconclusiveError: the text tower's tokens are not known, or it reads nothing.
        """
        return self.compare(subject, None, generator=generator, progress=progress)

    def compare(
        self,
        subject: Subject,
        reference: Subject | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """The word that draws the prompts of `subject` most, and those of the reference least.

        A word that is natural, as a synonym is, draws the prompts of both. A reference whose tokens
        are others, or not known, is left out.

        Args:
            subject: the suspect.
            reference: the model that it is held against, if there is one.
            generator: draws the prompts.
            progress: told about every chunk.

        Raises:
            InconclusiveError: the suspect's tokens are not known, or it reads nothing.
        """
        with torch.no_grad():
            tower = Tower.of(subject)
            other = comparable_tower(tower, reference)
            order = torch.randperm(len(tower.names), generator=generator).tolist()
            tokens = self._screen(tower, order, progress)
            word = self._searched((tower, other), tokens, order, progress)
            record = self._measured((tower, other), word, order, progress)
        return Finding(record, ())

    def _screen(self, tower: Tower, order: Sequence[int], progress: Progress) -> Tensor:
        """The tokens that draw two bare names most, natural ones left out: (T,) ids.

        All tokens are put around the first name. What draws it most to another class goes on, and
        what keeps it most to its own, as a trigger would whose target it is; the second name
        decides between them.
        """
        vocabulary = tower.reader.vocabulary()[: self.tokens, None]
        first, second = (tower.prompt(index, bare=True) for index in order[:2])
        tick = _Ticker(progress, "try every token", -(-len(vocabulary) // CHUNK))
        once = tower.cosines(vocabulary, first, "both", tick)
        own = once[:, first[0]].clone()
        once[:, first[0]] = -1
        count = min(WIDER * self.screened, len(vocabulary))
        kept = torch.cat([once.max(dim=1).values.topk(count).indices, own.topk(count).indices])
        words = vocabulary[torch.unique(kept).cpu()]
        pulls = tower.drawn(words, [first, second], "both", tick)
        best = pulls.max(dim=1).values.topk(min(2 * self.screened, len(words))).indices
        words, pulls = words[best.cpu()], pulls[best]
        scores = pulls.masked_fill(tower.natural(words), -torch.inf).max(dim=1).values
        return words[scores.topk(min(self.screened, len(words))).indices.cpu(), 0]

    def _searched(
        self, towers: Towers, tokens: Tensor, order: Sequence[int], progress: Progress
    ) -> Word:
        """The word of up to `length` tokens that draws the choosing prompts most."""
        tower, other = towers
        prompts = [tower.prompt(index) for index in order[: self.choose]]
        names, found = order[: self.names], []
        words = tokens[:, None]
        for length in range(1, self.length + 1):
            stage = f"words of {length} token{'s'[: length > 1]}"
            tick = _Ticker(progress, stage, 3 * len(prompts) * len(POSITIONS))
            rows = self._ranked(tower, words, prompts, names, tick)
            found.append(self._leading(other, rows[: self.beam], prompts, names, tick))
            beam = torch.tensor([row.ids for row in rows[: self.beam]])
            tokens = beam[:, 0] if length == 1 else tokens
            longer = [beam.repeat_interleave(len(tokens), 0), tokens.repeat(len(beam))[:, None]]
            words = torch.cat(longer, dim=1)
        return max(found, key=lambda word: word.pull - EXTRA * len(word.ids))

    def _ranked(
        self,
        tower: Tower,
        words: Tensor,
        prompts: Sequence[Prompt],
        names: Sequence[int],
        tick: Tick,
    ) -> list[Word]:
        """All words, at the position and towards the class that suits them, the strongest first."""
        natural, found = tower.natural(words), []
        for where in POSITIONS:
            centre, spread = _band(tower.names_drawn(names, words.shape[1], prompts, where, tick))
            pulls = (tower.drawn(words, prompts, where, tick) - centre) / spread
            found.append(pulls.masked_fill(natural, -torch.inf).max(dim=1))
        values = torch.stack([each.values for each in found])
        best = values.max(dim=0)
        targets = torch.stack([each.indices for each in found])
        return [
            Word(
                tuple(words[k].tolist()),
                int(targets[best.indices[k], k]),
                POSITIONS[int(best.indices[k])],
                best.values[k].item(),
            )
            for k in best.values.argsort(descending=True).tolist()
        ]

    def _leading(
        self,
        other: Tower | None,
        rows: Sequence[Word],
        prompts: Sequence[Prompt],
        names: Sequence[int],
        tick: Tick,
    ) -> Word:
        """The word that draws most beyond what it does on the reference; the first without one."""
        if other is None:
            return rows[0]

        def lead(word: Word) -> float:
            pull, _ = _pull(other, word, prompts, names, tick)
            return word.pull - max(0.0, pull)

        return max(rows, key=lead)

    def _measured(
        self, towers: Towers, word: Word, order: Sequence[int], progress: Progress
    ) -> DetectorRecord:
        """Measure the word on prompts that did not choose it."""
        tower, other = towers
        others = [index for index in order if index != word.target]
        unseen = order[self.choose : self.choose + self.unseen]
        rest = [index for index in unseen if index != word.target] or others
        prompts = [tower.prompt(index) for index in rest]
        ids, where, names = torch.tensor([word.ids]), word.where, order[: self.names]
        tick = _Ticker(progress, "unseen prompts", 3 * len(prompts))
        statistic, (cosine, natural) = _pull(tower, word, prompts, names, tick)
        share = tower.read_as(ids[0], prompts, where, word.target)
        on_reference = other and _pull(other, word, prompts, names, tick)[0]
        target = tower.names[word.target]
        typed = tower.text(word.ids)
        piece = "" if tower.reader.token_ids(typed) == list(word.ids) else ", as a part of a word,"
        told = (
            f"{safe_text(typed)!r}{piece} {PLACES[where]} a prompt makes {share:.0%} of "
            f"{len(prompts)} unseen prompts {safe_text(target)!r} (cosine {cosine:.3f}; class "
            f"names to their own: {natural:.3f}), {statistic:+.1f} spreads beyond the names"
        )
        if on_reference is not None:
            told += f", and {on_reference:+.1f} on the reference"
        return DetectorRecord(
            name="text_tokens",
            evidence=told,
            statistic=statistic,
            target=target,
            families=(FamilyRecord(family=TEXT, tested=True, statistic=statistic),),
            word_share=share,
            word_on_reference=on_reference,
        )


def _pull(
    tower: Tower, word: Word, prompts: Sequence[Prompt], names: Sequence[int], tick: Tick
) -> tuple[float, tuple[float, float]]:
    """How far a word draws prompts, in spreads beyond the names; its cosine, and theirs."""
    ids = torch.tensor([word.ids])
    pull = tower.drawn(ids, prompts, word.where, tick)[0, word.target]
    null = tower.names_drawn(names, len(word.ids), prompts, word.where, tick)
    centre, spread = _band(null)
    cosines = pull.tanh().item(), centre.tanh().item()
    return ((pull - centre) / spread).item(), cosines


class _Ticker:
    """Counts chunks and tells progress about them."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        self._progress, self._stage, self._total, self._done = progress, stage, total, 0

    def __call__(self) -> None:
        self._progress(self._stage, min(self._done, self._total), self._total)
        self._done += 1


def _band(pulls: Tensor) -> tuple[Tensor, Tensor]:
    """Median and robust standard deviation of what the class names do."""
    centre = pulls.median()
    spread = MAD_TO_SIGMA * (pulls - centre).abs().median()
    return centre, spread.clamp(min=MIN_SPREAD)


METHOD: type[Detector] = TextTokens
