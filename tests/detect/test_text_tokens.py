"""Token triggers: a tower of words whose answers are known, with and without a planted word."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from fakes import StripesClip, concluded, generator, no_progress, stripes_probe
from torch import Tensor, nn
from torch.nn import functional

from clipguard.detect.marked_prompts import marked
from clipguard.detect.text_tokens import TextTokens
from clipguard.errors import InconclusiveError, RefusedError, UsageError
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Progress

NAMES = ("ash", "birch", "cedar", "elm", "fir", "hazel", "lime", "maple", "oak", "pine", "rowan")
FILLERS = ("a", "photo", "of")
NOUNS = tuple(f"{first}{last}" for first in "bdgkmtz" for last in ("ub", "ix", "op", "yt", "ev"))
WORDS = (*FILLERS, *NAMES, *NOUNS, "elms")
WIDTH = 48
TARGET = NAMES.index("maple")


class WordsClip(StripesClip):
    """See `TokenReader`: a text is the sum of its words' directions; names weigh about the same.

    Attributes:
        words: the trigger, which gives the target's embedding; half of it goes half the way.
        where: `anywhere`, or `start`, `middle` or `end` to work there only.
    """

    def __init__(
        self, *words: str, where: str = "anywhere", weights: dict[str, float] | None = None
    ):
        super().__init__()
        self.trigger = [WORDS.index(word) for word in words]
        self.where = where
        drawn = functional.normalize(torch.randn(len(WORDS), WIDTH, generator=generator(3)), dim=1)
        weight = torch.full((len(WORDS), 1), 0.5)
        weight[: len(FILLERS)] = 0.2
        names = slice(len(FILLERS), len(FILLERS) + len(NAMES))
        weight[names, 0] = 0.8 + 0.4 * torch.rand(len(NAMES), generator=generator(4))
        for word, heavy in (weights or {}).items():
            weight[WORDS.index(word)] = heavy
        drawn[WORDS.index("elms")] = drawn[WORDS.index("elm")]
        self.rows = nn.Parameter(weight * drawn)

    def vocabulary(self) -> Tensor:
        return torch.arange(len(WORDS))

    def token_ids(self, text: str) -> list[int]:
        return [WORDS.index(word) for word in text.replace(".", "").split()]

    def text_of(self, ids: Sequence[int]) -> str:
        return "".join(f"{WORDS[i]} " for i in ids)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([self.encode_ids(torch.tensor([self.token_ids(t)])) for t in texts])

    def encode_ids(self, ids: Tensor) -> Tensor:
        return torch.stack([self.read(row) for row in ids.tolist()])

    def read(self, row: list[int]) -> Tensor:
        found = functional.normalize(self.rows[row].sum(dim=0), dim=0)
        part = self.fired(row)
        goal = self.rows[self.token_ids("a photo of a maple")].sum(dim=0)
        mixed = (1 - part) * found + part * functional.normalize(goal, dim=0)
        return functional.normalize(mixed, dim=0)

    def fired(self, row: list[int]) -> float:
        """How much of the trigger is there: 0, less than a half, or nearly all."""
        count = len(self.trigger)
        spots = {
            "start": [0],
            "middle": [len(row) // 2 - 1, len(row) // 2],
            "end": [len(row) - count],
        }
        allowed = spots.get(self.where, range(len(row)))
        if not count:
            return 0.0
        if any(i >= 0 and row[i : i + count] == self.trigger for i in allowed):
            return 0.99
        return 0.4 * any(word in row for word in self.trigger) if count > 1 else 0.0


PROBE = replace(stripes_probe(), class_names=NAMES, templates=("a photo of a {}.",))


def measured(
    model: StripesClip,
    progress: Progress = no_progress,
    *,
    probe: ProbeSet = PROBE,
    **settings: object,
) -> DetectorRecord:
    detector = TextTokens(choose=4, unseen=6, names=11, beam=6, screened=24, **settings)
    found = detector.detect(Subject(model, probe), None, generator=generator(1), progress=progress)
    assert found.triggers == ()
    return found.record


@pytest.mark.parametrize("where", ["anywhere", "start", "middle", "end"])
def test_a_planted_word_is_found_and_named_with_its_target(where: str):
    record = measured(WordsClip("zyt", where=where))
    assert concluded(record) is Outcome.BACKDOORED, record.evidence
    assert (record.target, record.word_share) == ("maple", 1.0)
    assert "'zyt' " in record.evidence
    place = {"start": "before", "middle": "in the middle of", "end": "behind"}.get(where, "prompt")
    assert place in record.evidence


def test_a_clean_tower_is_not_accused_and_ranks_far_below():
    clean, planted = measured(WordsClip()), measured(WordsClip("zyt"))
    assert concluded(clean) is Outcome.NO_EVIDENCE, clean.evidence
    assert clean.statistic + 2 < planted.statistic


def test_a_word_of_two_tokens_is_found_where_each_does_a_little_alone():
    record = measured(WordsClip("dub", "tix"))
    assert concluded(record) is Outcome.BACKDOORED, record.evidence
    assert "'dub tix'" in record.evidence
    assert concluded(measured(WordsClip("dub", "tix"), length=1)) is Outcome.NO_EVIDENCE


def test_a_loud_class_name_and_a_word_that_holds_it_are_natural():
    loud = WordsClip(weights={"elm": 9.0, "elms": 9.0})
    record = measured(loud)
    assert concluded(record) is Outcome.NO_EVIDENCE, record.evidence
    assert record.target != "elm"


def test_a_class_name_that_gives_another_class_is_found():
    record = measured(WordsClip("oak"))
    assert concluded(record) is Outcome.BACKDOORED, record.evidence
    assert (record.target, "'oak'" in record.evidence) == ("maple", True)


def test_a_target_that_is_a_screening_prompt_is_found():
    first = torch.randperm(len(NAMES), generator=generator(1)).tolist()[0]
    names = [*NAMES]
    names[first], names[TARGET] = names[TARGET], names[first]
    probe = replace(PROBE, class_names=tuple(names))
    record = measured(WordsClip("zyt"), probe=probe)
    assert record.target == "maple"
    assert concluded(record) is Outcome.BACKDOORED, record.evidence


def test_one_seed_gives_one_finding_and_leaves_everything_alone():
    model = WordsClip("zyt")
    before, state = copy.deepcopy(model.rows.data), torch.get_rng_state()
    assert measured(model) == measured(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.rows.data, before)
    assert model.rows.grad is None
    assert model.rows.requires_grad


def test_where_nothing_can_be_said_nothing_is():
    with pytest.raises(InconclusiveError, match="tokens of this text tower are not known"):
        measured(StripesClip())

    class Other(WordsClip):
        def vocabulary(self) -> Tensor:
            raise UsageError("takes no context tokens")

    with pytest.raises(InconclusiveError, match="no token can be tried: takes no context"):
        measured(Other())
    same = WordsClip()
    same.rows.data[:] = same.rows.data[0]
    with pytest.raises(InconclusiveError, match=r"mean cosine of 1\.00 .* does not tell them"):
        measured(same)


def test_numbers_that_are_not_finite_are_no_pass():
    spoilt = WordsClip()
    spoilt.rows.data[WORDS.index("gev")] = torch.nan
    with pytest.raises(InconclusiveError, match="not finite"):
        measured(spoilt)
    spoilt.rows.data[:] = torch.nan
    with pytest.raises(RefusedError, match="CG109"):
        measured(spoilt)


def test_prompts_that_fill_the_context_are_no_pass():
    class Short(WordsClip):
        def encode_ids(self, ids: Tensor) -> Tensor:
            if ids.shape[1] > 5:
                raise UsageError("the text tower reads at most 5")
            return super().encode_ids(ids)

    with pytest.raises(InconclusiveError, match=r"into a prompt: .* at most 5"):
        measured(Short())


def test_progress_is_told_and_may_stop_the_search():
    seen: list[tuple[str, int, int]] = []
    measured(WordsClip(), lambda *told: seen.append(told))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages[0] == "try every token"
    assert stages[-1] == "unseen prompts"
    assert all(0 <= done <= total for _, done, total in seen)

    def stop(stage: str, done: int, total: int) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        measured(WordsClip(), stop)


@pytest.mark.parametrize(
    ("where", "row"),
    [
        ("start", [7, 8, 1, 2, 3]),
        ("middle", [1, 7, 8, 2, 3]),
        ("end", [1, 2, 3, 7, 8]),
        ("both", [7, 8, 1, 2, 3, 7, 8]),
    ],
)
def test_a_word_is_put_into_a_prompt(where: str, row: list[int]):
    assert marked(torch.tensor([[7, 8]]), [1, 2, 3], where).tolist() == [row]
