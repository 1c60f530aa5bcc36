"""Where a model lies among known-clean ones: the geometry of a strip chart, drawn as SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipguard.record import FamilyRecord

WIDTH, LEFT, RIGHT = 640, 16, 624
DOT = 11.0
LEVELS = 5
FARTHEST, NEAREST = 1e100, 1e-100
"""Values beyond these are none that a search finds; arithmetic with them would overflow."""


@dataclass(frozen=True)
class Strip:
    """Places in a drawing 640 units wide.

    Attributes:
        dots: x and height (0, 1, 2 ... above the axis) of every known-clean model.
        band: left end and width of the range of the known-clean models.
        mark: x of the audited model.
        anchor: side of the mark on which its label has room, as an SVG text anchor.
        ticks: x and label of the axis ticks.
    """

    dots: tuple[tuple[float, int], ...]
    band: tuple[float, float]
    mark: float
    anchor: str
    ticks: tuple[tuple[float, str], ...]


def strip(row: FamilyRecord) -> Strip | None:
    """The strip of one trigger family; None without a statistic or a null band to draw."""
    if row.statistic is None or not row.null:
        return None
    if max(map(abs, (*row.null, row.statistic))) > FARTHEST:
        return None
    values = (*row.null, row.statistic)
    step = _step(max(*values, 0.0) - min(*values, 0.0))
    low = math.floor(min(*values, 0.0) / step)
    high = max(math.ceil(max(values) / step), low + 1)

    def place(value: float) -> float:
        share = (value / step - low) / (high - low)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    places = sorted(place(value) for value in row.null)
    mark = place(row.statistic)
    return Strip(
        dots=_stacked(places),
        band=(places[0] - DOT / 2, round(places[-1] - places[0] + DOT, 1)),
        mark=mark,
        anchor="start" if mark < 140 else "end" if mark > WIDTH - 140 else "middle",
        ticks=tuple((place(i * step), f"{i * step:.4g}") for i in range(low, high + 1)),
    )


def _step(span: float) -> float:
    """Distance of ticks: 1, 2 or 5 times a power of ten, four to nine ticks."""
    if span <= NEAREST:
        return 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next((power * m for m in (1, 2, 5) if power * m >= rough), power * 10)


def _stacked(places: list[float]) -> tuple[tuple[float, int], ...]:
    """Dots that would cover each other stand on top of each other."""
    last: list[float] = []
    stacked = []
    for x in places:
        free = (n for n, end in enumerate(last) if x - end >= DOT)
        level = next(free, min(len(last), LEVELS - 1))
        last[level : level + 1] = [x]
        stacked.append((x, level))
    return tuple(dict.fromkeys(stacked))
