"""The record of a benchmark, from which every table is made."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from clipguard.lab.bench.cells import DetectCell, Kind, PurifyCell
from clipguard.lab.zoo.manifest import Entry
from clipguard.record import Part, Rate
from clipguard.text_safety import safe_text

SCHEMA_VERSION: Final = "clipguard.bench/1"
HEADLINE, WEAK = "headline", "weak"
NO_TRIGGER, IN_TEXT, LEARNER = "no trigger", "trigger in the text", "prompt learner"
WORD = "needs a prompt word"
APART = {
    "mmpoison": NO_TRIGGER,
    "text_tower": IN_TEXT,
    "prompt_learner": LEARNER,
    "trojvqa": WORD,
}
"""Attack to the category of those that a scan by ordinary prompts and images cannot show."""
LONGEST = 80
CATEGORIES = (HEADLINE, WEAK, *APART.values())


class Figure(Part):
    """A number with its 95 % interval, where there is one, over `n` victims."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int


class Row(Part):
    """One victim under one method; `cell` is None where it was not run.

    Attributes:
        label: row of the matrix that it counts in.
        category: headline, weak, or a kind of attack that stands apart.
    """

    label: str
    category: str
    method: str
    entry: dict[str, Any]
    cell: Annotated[DetectCell | PurifyCell, Field(discriminator="kind")] | None


class TableCell(Part):
    """All victims of one label and base under one method.

    Attributes:
        label: attack, hard negative or clean.
        category: as in `Row`.
        method: registered name.
        base: base parent.
        victims: in the selection.
        not_run: of them without a cell.
        broken: of them where something broke.
        figures: by name; empty where nothing was measured.
    """

    label: str
    category: str
    method: str
    base: str
    victims: int
    not_run: int
    broken: int
    figures: dict[str, Figure]


class BaseScore(Part):
    """How a detector does on the victims of one base parent."""

    auroc: Rate | None
    recall: Rate | None
    false_alarms: Rate | None


class Score(Part):
    """How a detector does on the headline victims that were run.

    Attributes:
        models: how many they are.
        unscored: of them without statistic and suspicion, which count as the middle of the others.
        auroc: ranking of backdoored above clean by the detector's statistic, or its suspicion.
        resampled: what its interval resamples.
        cross_entropy: in nats, as TrojAI scores; None for a detector without a probability.
        brier: mean squared error of the suspicion.
        no_false_alarm: share of the backdoored that score above every clean model.
        confusion: kind of model to decision to how many.
        recall_by_asr: ASR bin to share failed, weak victims included.
        recall_by_attack: attack to share failed.
        target_first: share of those found whose target was ranked first; attacks with several
            targets are left out, since an entry knows one of them.
        by_base: the same, base parent by base parent.
    """

    models: int
    unscored: int
    auroc: Rate | None
    resampled: str
    cross_entropy: Figure | None
    brier: float | None
    no_false_alarm: Rate | None
    confusion: dict[str, dict[str, int]]
    recall_by_asr: dict[str, Rate]
    recall_by_attack: dict[str, Rate]
    target_first: Rate | None
    by_base: dict[str, BaseScore]


class Bench(Part):
    """A benchmark, whole or with gaps that it tells.

    Attributes:
        kind: detect or purify.
        preset: of the zoo.
        zoo: its digest.
        split: calibration, test or all.
        methods: in the order given.
        seed: of every scan.
        command: how to make it again, without paths.
        version: of clipguard.
        looks: different looks at the test split that the zoo's log holds.
        cells: of the matrix.
        not_run: of them.
        broken: of those that were run.
        unbuilt: entries of the split whose model does not exist yet.
        scores: by method; empty for purifiers.
        table: the matrix.
        rows: every victim under every method.
    """

    schema_version: Literal["clipguard.bench/1"] = SCHEMA_VERSION
    kind: Kind
    preset: str
    zoo: str
    split: str
    methods: tuple[str, ...]
    seed: int
    command: str
    version: str
    looks: int
    cells: int
    not_run: int
    broken: int
    unbuilt: int
    scores: dict[str, Score]
    table: tuple[TableCell, ...]
    rows: tuple[Row, ...]


def category(entry: Entry) -> str:
    """Whether an entry counts in the headline, and if not, why."""
    if entry.kind != "poisoned":
        return HEADLINE
    if entry.attack in APART:
        return APART[entry.attack]
    return HEADLINE if entry.planted else WEAK


def label(entry: Entry) -> str:
    """The row of the matrix that an entry counts in: method, settings that are not defaults."""
    settings = (f"{key}={value}" for key, value in sorted(entry.settings.items()))
    given = safe_text(" ".join(settings))[:LONGEST]
    if entry.kind == "poisoned":
        weak = "(weak)" if category(entry) == WEAK else ""
        return " ".join(filter(None, (entry.attack, given, weak)))
    if entry.negative is None:
        return "clean"
    return " ".join(filter(None, (entry.negative, given, "(hard negative)")))
