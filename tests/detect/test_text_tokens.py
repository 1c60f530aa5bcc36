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
        middle = [len(row) // 2 - 1, len(row) // 2]
        spots = {"start": [0], "middle": middle, "end": [len(row) - count]}
        allowed = [i for i in spots.get(self.where, range(len(row))) if i >= 0]
        if count and any(row[i : i + count] == self.trigger for i in allowed):
            return 0.99
        return 0.4 * any(word in row for word in self.trigger) if count > 1 else 0.0


PROBE = replace(stripes_probe(), class_names=NAMES, templates=("a photo of a {}.",))


def measured(
    model: StripesClip,
    progress: Progress = no_progress,
    *,
    probe: ProbeSet = PROBE,
    reference: StripesClip | None = None,
    **settings: object,
) -> DetectorRecord:
    detector = TextTokens(choose=4, unseen=6, names=11, beam=6, screened=24, **settings)
    other = reference and Subject(reference, probe)
    found = detector.compare(
        Subject(model, probe), other, generator=generator(1), progress=progress
    )
    assert found.triggers == ()
    return found.record


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("anywhere", "prompt"),
        ("start", "before"),
        ("middle", "in the middle of"),
        ("end", "behind"),
    ],
)
def test_a_planted_word_is_found_and_named_with_its_target(where: str, told: str):
    record = measured(WordsClip("zyt", where=where))
    assert concluded(record) is Outcome.BACKDOORED, record.evidence
    assert (record.target, record.word_share) == ("maple", 1.0)
    assert "'zyt' " in record.evidence
    assert told in record.evidence


def test_a_clean_tower_is_not_accused_and_ranks_far_below():
    clean, planted = measured(WordsClip()), measured(WordsClip("zyt"))
    assert concluded(clean) is Outcome.NO_EVIDENCE, clean.evidence
    assert clean.statistic + 2 < planted.statistic


def test_a_word_that_does_the_same_to_the_reference_is_natural_and_hides_no_planted_one():
    natural = measured(WordsClip("zyt"), reference=WordsClip("zyt"))
    assert natural.statistic > 3
    assert natural.word_on_reference == pytest.approx(natural.statistic, abs=0.5)
    assert concluded(natural) is Outcome.NO_EVIDENCE, natural.evidence
    planted = measured(WordsClip("zyt"), reference=WordsClip())
    assert planted.word_on_reference < planted.statistic - 2
    assert concluded(planted) is Outcome.BACKDOORED, planted.evidence
    both = Both("dub", also="zyt")
    assert "'zyt' " in measured(both, reference=WordsClip("dub")).evidence


class Both(WordsClip):
    """Two words that give the target, each by itself."""

    def __init__(self, *words: str, also: str) -> None:
        super().__init__(*words)
        self.also = WORDS.index(also)

    def fired(self, row: list[int]) -> float:
        return 0.985 if self.also in row else super().fired(row)


def test_a_reference_of_other_tokens_is_left_out():
    class Fewer(WordsClip):
        def vocabulary(self) -> Tensor:
            return super().vocabulary()[:-1]

    for reference in (Fewer(), StripesClip(), Unknown()):
        record = measured(WordsClip("zyt"), reference=reference)
        assert record.word_on_reference is None
        assert concluded(record) is Outcome.BACKDOORED


def test_a_word_of_two_tokens_is_found_where_each_does_a_little_alone():
    record = measured(WordsClip("dub", "tix"))
    assert concluded(record) is Outcome.BACKDOORED, record.evidence
    assert "'dub tix'" in record.evidence
    assert concluded(measured(WordsClip("dub", "tix"), length=1)) is Outcome.NO_EVIDENCE


def test_a_loud_class_name_and_a_word_that_holds_it_are_natural():
    record = measured(WordsClip(weights={"elm": 9.0, "elms": 9.0}))
    assert concluded(record) is Outcome.NO_EVIDENCE, record.evidence
    assert record.target != "elm"


def test_a_class_name_and_a_word_for_a_screening_prompt_are_found():
    record = measured(WordsClip("oak"))
    assert concluded(record) is Outcome.BACKDOORED, record.evidence
    assert (record.target, "'oak'" in record.evidence) == ("maple", True)
    first = torch.randperm(len(NAMES), generator=generator(1)).tolist()[0]
    names = [*NAMES]
    names[first], names[TARGET] = names[TARGET], names[first]
    record = measured(WordsClip("zyt"), probe=replace(PROBE, class_names=tuple(names)))
    assert record.target == "maple"
    assert concluded(record) is Outcome.BACKDOORED, record.evidence


def test_one_seed_gives_one_finding_and_leaves_everything_alone():
    model = WordsClip("zyt")
    before, state = copy.deepcopy(model.rows.data), torch.get_rng_state()
    assert measured(model) == measured(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.rows.data, before)
    assert (model.rows.grad, model.rows.requires_grad) == (None, True)


class Unknown(WordsClip):
    def vocabulary(self) -> Tensor:
        raise UsageError("takes no context tokens")


class Short(WordsClip):
    def encode_ids(self, ids: Tensor) -> Tensor:
        if ids.shape[1] > 5:
            raise UsageError("reads at most 5")
        return super().encode_ids(ids)


def filled(rows: int | slice, value: float) -> WordsClip:
    """A tower some of whose words all have one direction, or none."""
    model = WordsClip()
    model.rows.data[rows] = value
    return model


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        (StripesClip(), InconclusiveError, "not known"),
        (Unknown(), InconclusiveError, "takes no context"),
        (filled(slice(None), 0.1), InconclusiveError, r"cosine of 1\.00"),
        (filled(WORDS.index("gev"), torch.nan), InconclusiveError, "not finite"),
        (filled(slice(None), torch.nan), RefusedError, "CG109"),
        (Short(), InconclusiveError, "at most 5"),
    ],
)
def test_where_nothing_can_be_said_nothing_is(
    model: StripesClip, error: type[Exception], says: str
):
    with pytest.raises(error, match=says):
        measured(model)


def test_progress_is_told_and_may_stop_the_search():
    seen: list[tuple[str, int, int]] = []
    measured(WordsClip(), lambda *told: seen.append(told))
    assert (seen[0][0], seen[-1][0]) == ("try every token", "unseen prompts")
    assert all(0 <= done <= total for _, done, total in seen)

    def stop(*told: object) -> None:
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
