"""The tables of a benchmark, as text in rows and columns; how they look is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from clipguard.lab.bench.cells import DetectCell, PurifyCell
from clipguard.lab.bench.record import (
    HEADLINE,
    IN_TEXT,
    LEARNER,
    NO_TRIGGER,
    WEAK,
    WORD,
    Bench,
    Figure,
    Row,
    Score,
    TableCell,
)
from clipguard.record import Decision, Rate
from clipguard.record.wording import WORDS, interval, number, percent

LEVELS = 8
STAND_APART = {
    HEADLINE: "",
    WEAK: "ASR below 90 % or CA loss above 3 points; out of the headline",
    NO_TRIGGER: "poisoned without a trigger: no backdoor, must not fail; out of the headline",
    IN_TEXT: "trigger in the text, which no image trigger can show; out of the headline",
    LEARNER: "lives in a prompt learner; the model is honest, must pass; out of the headline",
    WORD: "answers to prompts with its word, which a scan does not read; out of the headline",
}
HEATS = (
    ("asr_gap", "ASR above the clean twin's"),
    ("ca_loss", "Clean accuracy lost against the clean twin"),
    ("pa_ratio", "PA, as a share of the clean twin's accuracy on the same images"),
)
PURIFIED_STYLES = (
    ("seen", "seen styles"),
    ("held_out", "held-out style"),
    ("unseen", "class list that no tuning saw"),
)


class SheetCell(NamedTuple):
    """Text, and how strongly it is coloured, from 0 to `LEVELS`; None for plain."""

    text: str
    level: int | None = None


class Sheet(NamedTuple):
    """One table: a heading, a remark, column heads, and rows led by their name and a remark."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[SheetCell, ...]], ...]


def sheets(bench: Bench) -> list[Sheet]:
    """All tables, in order."""
    if bench.kind == "detect":
        made = [_scores(bench), _heat(bench, _decided), _confusion(bench), _bins(bench)]
        return [*made, _bases(bench), _cost(bench), _detected(bench)]
    cells = [
        _heat(bench, _rate(f"{style}.{name}"), f"{what}, {told}")
        for style, told in PURIFIED_STYLES
        for name, what in HEATS
    ]
    own = _heat(bench, _rate("seen.target_ca"), "Clean accuracy of the target class, seen styles")
    return [*cells, own, _cost(bench), _repaired(bench)]


def _row(name: str, texts: Sequence[str]) -> tuple[str, str, tuple[SheetCell, ...]]:
    return name, "", tuple(SheetCell(text) for text in texts)


def _scores(bench: Bench) -> Sheet:
    scores = [bench.scores[method] for method in bench.methods]
    lines: tuple[tuple[str, Callable[[Score], str]], ...] = (
        ("models", lambda s: str(s.models)),
        ("of them without a score", lambda s: str(s.unscored)),
        ("AUROC", lambda s: interval(s.auroc)),
        ("its interval resamples", lambda s: s.resampled),
        ("cross-entropy (nats)", lambda s: figure(s.cross_entropy)),
        ("Brier score", lambda s: number(s.brier)),
        ("found at 0 false alarms", lambda s: interval(s.no_false_alarm)),
        ("target ranked first, of those found", lambda s: interval(s.target_first)),
    )
    return Sheet(
        "Headline",
        "Planted image triggers against clean models and hard negatives. A model without a score "
        "counts as the middle of the others. Models that are not run are left out, and from the "
        "targets also attacks with several of them, of which the zoo knows one.",
        ("Figure", *bench.methods),
        tuple(_row(name, [told(each) for each in scores]) for name, told in lines),
    )


Shown = Callable[[TableCell], SheetCell]


def _heat(bench: Bench, shown: Shown, what: str = "Share decided rightly") -> Sheet:
    """Label by method and base."""
    columns = list(dict.fromkeys((cell.method, cell.base) for cell in bench.table))
    found = {(cell.label, cell.method, cell.base): cell for cell in bench.table}
    labels = dict.fromkeys((cell.label, cell.category) for cell in bench.table)
    rows = []
    for name, kind in labels:
        cells = (found.get((name, method, base)) for method, base in columns)
        shades = tuple(shown(cell) if cell else SheetCell("none") for cell in cells)
        rows.append((name, STAND_APART.get(kind, kind), shades))
    note = (
        "Attack by method and base parent, with 95 % intervals over victims (of one victim alone, "
        "over drawings where that is known). A stronger colour is a larger number."
    )
    head = ("Victims", *(f"{method}, {base}" for method, base in columns))
    return Sheet(what, note, head, tuple(rows))


def _decided(cell: TableCell) -> SheetCell:
    made = cell.figures.get("right")
    if made is None:
        return SheetCell(f"not run ({cell.victims})")
    ran = cell.victims - cell.not_run
    counts = ", ".join(
        f"{round(cell.figures[d.value].value * ran)} {WORDS[d].lower()}"
        for d in Decision
        if cell.figures[d.value].value
    )
    text = f"{share(made)}; of {ran}: {counts}{_gap(cell)}"
    return SheetCell(text, level(made.value))


def _rate(name: str) -> Shown:
    def shown(cell: TableCell) -> SheetCell:
        made = cell.figures.get(name)
        if made is None:
            told = "not run" if cell.not_run == cell.victims else "not repaired"
            return SheetCell(f"{told} ({cell.victims})")
        return SheetCell(f"{share(made)}; of {made.n}{_gap(cell)}", level(made.value))

    return shown


def _gap(cell: TableCell) -> str:
    told = [(cell.not_run, "not run"), (cell.broken, "broke")]
    return "".join(f"; {count} of {cell.victims} {what}" for count, what in told if count)


def _confusion(bench: Bench) -> Sheet:
    rows = [
        _row(
            f"{method}: {kind}",
            [str(counts[decision.value]) for decision in Decision],
        )
        for method in bench.methods
        for kind, counts in bench.scores[method].confusion.items()
    ]
    head = ("Kind of model", *(WORDS[decision] for decision in Decision))
    return Sheet("Decisions", "Of the headline models that were run.", head, tuple(rows))


def _bins(bench: Bench) -> Sheet:
    """Recall by how well the attack took, and by attack."""
    rows = []
    for what, field in (("ASR", "recall_by_asr"), ("attack", "recall_by_attack")):
        groups: list[dict[str, Rate]] = [getattr(bench.scores[m], field) for m in bench.methods]
        for name in sorted({name for group in groups for name in group}):
            rows.append(_row(f"{what} {name}", [interval(group.get(name)) for group in groups]))
    note = "Share of backdoored models that fail. Weak victims count by ASR, not by attack."
    return Sheet("Recall", note, ("Victims", *bench.methods), tuple(rows))


def _bases(bench: Bench) -> Sheet:
    rows = [
        _row(f"{method}: {base}", [interval(s.auroc), interval(s.recall), interval(s.false_alarms)])
        for method in bench.methods
        for base, s in bench.scores[method].by_base.items()
    ]
    head = ("Base parent", "AUROC", "Backdoored that fail", "Honest that fail")
    return Sheet("By base", "Headline models; intervals over victims.", head, tuple(rows))


def _cost(bench: Bench) -> Sheet:
    repairs = bench.kind == "purify"
    rows = [
        _row(
            f"{cell.method}: {cell.label}, {cell.base}",
            [
                figure(cell.figures.get("seconds")),
                *(_count(cell.figures.get(name)) for name in ("forward", "backward")),
                *([figure(cell.figures.get("memory"))] if repairs else []),
            ],
        )
        for cell in bench.table
    ]
    note = (
        "Mean per model: wall time, images through the image tower, and gradients that came back. "
        "Search, and with a repair the search for triggers to repair against; not the laboratory's "
        "own evaluation."
    )
    if repairs:
        note += " Memory in GB of the host: the most during the repair, with what was held before."
    memory = ("Memory",) if repairs else ()
    return Sheet("Cost", note, ("Cells", "Seconds", "Images", "Gradients", *memory), tuple(rows))


def _detected(bench: Bench) -> Sheet:
    def texts(row: Row) -> list[str]:
        cell = row.cell
        if not isinstance(cell, DetectCell):
            return [*_truth(row), "not run", "", "", "", "", ""]
        told = [WORDS[cell.decision], number(cell.score), number(cell.excess), number(cell.p_value)]
        return [*_truth(row), *told, cell.target or "none", cell.error or cell.reason]

    head = (*TRUTH, "Decision", "Score", "Excess", "p", "First target", "Reason")
    return _all_rows(bench, head, texts)


def _repaired(bench: Bench) -> Sheet:
    wanted = [
        (style, name)
        for style, _ in PURIFIED_STYLES
        for name in NAMES
        if name != "target_ca" or style == "seen"
    ]

    def texts(row: Row) -> list[str]:
        cell = row.cell
        if not isinstance(cell, PurifyCell):
            return [*_truth(row), "not run", *[""] * len(wanted), "", ""]
        rates = [cell.rates.get(style, {}).get(name) for style, name in wanted]
        shown = ["not measured" if rate is None else percent(rate) for rate in rates]
        data = f"{cell.images} ({cell.labels} labelled)"
        why = cell.error or cell.inapplicable or ""
        return [*_truth(row), cell.target or "none", *shown, data, why]

    shown_as = (f"{NAMES[name]}, {style.replace('_', '-')}" for style, name in wanted)
    head = (*TRUTH, "First target", *shown_as, "Images at hand", "Why not")
    return _all_rows(bench, head, texts)


NAMES = {"asr": "ASR", "ca": "CA", "pa": "PA", "target_ca": "target's CA"}
TRUTH = ("Victim", "Method", "Base", "Settings", "Target", "ASR")


def _truth(row: Row) -> list[str]:
    entry = row.entry
    settings = " ".join(f"{key}={value}" for key, value in entry["settings"].items())
    asr = "none" if entry["asr"] is None else percent(entry["asr"])
    return [row.method, str(entry["base"]), settings, str(entry["target"] or "none"), asr]


def _all_rows(bench: Bench, head: tuple[str, ...], texts: Callable[[Row], list[str]]) -> Sheet:
    rows = tuple(_row(f"{row.label} {row.entry['id']}", texts(row)) for row in bench.rows)
    return Sheet("Every model", "All of them, also those out of the headline.", head, rows)


def level(value: float) -> int:
    """How strongly a share is coloured."""
    return round(LEVELS * min(max(value, 0.0), 1.0))


def share(made: Figure) -> str:
    """A share or a difference of shares as `97.2 % (95.1–98.6)`."""
    if made.low is None or made.high is None:
        return percent(made.value)
    return f"{percent(made.value)} ({100 * made.low:.1f}–{100 * made.high:.1f})"


def _count(made: Figure | None) -> str:
    """A mean of counts, as whole numbers with commas: four digits say nothing of 37,560 images."""
    if made is None:
        return number(None)
    told = f"{made.value:,.0f}"
    if made.low is None or made.high is None:
        return told
    return f"{told} ({made.low:,.0f}–{made.high:,.0f})"


def figure(made: Figure | None) -> str:
    """A number with its interval, where there is one."""
    if made is None or made.low is None or made.high is None:
        return number(made.value if made else None)
    return f"{number(made.value)} ({number(made.low)}–{number(made.high)})"
