"""How well probabilities and decisions fit the truth: the figures of the benchmark matrix.

A model's probability is the suspicion in [0, 1] that a detector has of it; one without any counts
as `UNKNOWN`, and is never left out.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from clipguard.errors import UsageError
from clipguard.probe.intervals import Z95, Interval, wilson

try:
    from sklearn.metrics import brier_score_loss, roc_auc_score
except ImportError as error:
    raise UsageError(
        "lab bench scores with scikit-learn, which is not installed; pip install 'clipguard[lab]'"
    ) from error

UNKNOWN = 0.5
CLIP = 1e-12
DRAWS = 1000
BINS = ((0.0, 0.5), (0.5, 0.9), (0.9, math.inf))


class Mean(NamedTuple):
    """A mean with its 95 % interval over `n` values, in the values' own unit."""

    value: float
    low: float
    high: float
    n: int


def suspicion(score: float | None) -> float:
    """The probability that is scored; a model without one is an even bet."""
    return UNKNOWN if score is None else score


def cross_entropy(scores: Sequence[float], truths: Sequence[bool]) -> Mean:
    """Mean cross-entropy in nats, probabilities clipped to [1e-12, 1 - 1e-12].

    Args:
        scores: probabilities of being backdoored, in [0, 1].
        truths: whether each model is.

    Returns:
        The mean with 1.96 standard errors on both sides; an even bet on everything scores ln 2.

    Raises:
        ValueError: nothing to score, or lengths that differ.

    Source:
        NIST TrojAI test harness.
    """
    _require_pairs(scores, truths)
    clipped = torch.tensor(scores, dtype=torch.float64).clamp(CLIP, 1 - CLIP)
    losses = binary_cross_entropy(clipped, torch.tensor(truths).double(), reduction="none")
    mean, spread = losses.mean().item(), losses.std(correction=0).item()
    half = Z95 * spread / math.sqrt(len(losses))
    return Mean(mean, mean - half, mean + half, len(losses))


def brier(scores: Sequence[float], truths: Sequence[bool]) -> float:
    """Mean squared distance of the probability from the truth: 0 is best, an even bet 0.25.

    Raises:
        ValueError: nothing to score, or lengths that differ.

    Source:
        Brier, Verification of forecasts expressed in terms of probability, 1950.
    """
    _require_pairs(scores, truths)
    return float(brier_score_loss(truths, scores, pos_label=True))


def auroc(scores: Sequence[float], truths: Sequence[bool]) -> float | None:
    """Chance that a backdoored model scores above a clean one, a tie counted half.

    Returns:
        None when there are not both kinds.

    Source:
        Mann and Whitney, Annals of Mathematical Statistics 1947.
    """
    return float(roc_auc_score(truths, scores)) if len(set(truths)) == 2 else None


def auroc_interval(
    scores: Sequence[float],
    truths: Sequence[bool],
    groups: Sequence[Hashable],
    *,
    generator: torch.Generator,
    draws: int = DRAWS,
) -> Interval | None:
    """AUROC with a 95 % percentile bootstrap interval that resamples whole groups.

    Resamples without both kinds say nothing and are left out. Where all others agree, as they do
    on a perfect ranking, there is no spread to read, which is luck and not certainty; the ends
    are then Wilson's for the rarer kind of model.

    Args:
        scores: one a model.
        truths: whether each is backdoored.
        groups: what each belongs to; models of one group are not independent.
        generator: draws the resamples.
        draws: number of resamples.

    Returns:
        None when there are not both kinds; `n` counts models.
    """
    value = auroc(scores, truths)
    if value is None:
        return None
    bad, good = _split(scores, truths)
    drawn = _resampled(scores, truths, groups, generator, draws)
    low, high = _ends(drawn) if len(drawn) else (0.0, 1.0)
    if low == high:
        fewest = min(len(bad), len(good))
        edge = wilson(round(value * fewest), fewest)
        low, high = min(low, edge.low), max(high, edge.high)
    return Interval(value, low, high, len(scores))


def _resampled(
    scores: Sequence[float],
    truths: Sequence[bool],
    groups: Sequence[Hashable],
    generator: torch.Generator,
    draws: int,
) -> Tensor:
    """(K,) AUROC of every resample with both kinds, K <= draws."""
    bad, good = _split(scores, truths)
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    mine, others = _split([float(index[group]) for group in groups], truths)
    # A model drawn k times wins k times as often, so resampling is weighting of one matrix.
    picks = torch.randint(len(index), (draws, len(index)), generator=generator)
    counts = torch.zeros(draws, len(index), dtype=torch.float64)
    counts.scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.float64))
    left = counts[:, torch.tensor(mine).long()]
    right = counts[:, torch.tensor(others).long()]
    pairs = left.sum(dim=1) * right.sum(dim=1)
    wins = ((left @ _win_matrix(bad, good)) * right).sum(dim=1)
    return wins[pairs > 0] / pairs[pairs > 0]


def detection_at_no_false_alarm(scores: Sequence[float], truths: Sequence[bool]) -> Interval | None:
    """Share of backdoored models that score above every clean one, with Wilson's interval.

    Returns:
        None when there are not both kinds.
    """
    bad, good = _split(scores, truths)
    if not bad or not good:
        return None
    return wilson(sum(score > max(good) for score in bad), len(bad))


def mean_interval(
    values: Sequence[float], *, generator: torch.Generator, draws: int = DRAWS
) -> Mean:
    """Mean with a 95 % percentile bootstrap interval over the values; one value has none to show.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("expected at least one value, got none")
    rows = torch.tensor(values, dtype=torch.float64)
    picks = torch.randint(len(rows), (draws, len(rows)), generator=generator)
    low, high = _ends(rows[picks].mean(dim=1))
    return Mean(rows.mean().item(), low, high, len(rows))


def asr_bin(asr: float) -> str:
    """Name of the ASR bin that a victim falls in: `< 50 %`, `50–90 %` or `≥ 90 %`."""
    low, high = next(each for each in BINS if asr < each[1])
    if low == 0:
        return f"< {high:.0%}".replace("%", " %")
    if math.isinf(high):
        return f"≥ {low:.0%}".replace("%", " %")
    return f"{100 * low:.0f}–{100 * high:.0f} %"


def _win_matrix(bad: Sequence[float], good: Sequence[float]) -> Tensor:
    """(P, Q) of 1 where a backdoored model scores above a clean one, 0.5 on ties, else 0."""
    left = torch.tensor(bad, dtype=torch.float64)[:, None]
    right = torch.tensor(good, dtype=torch.float64)[None]
    return (left > right).double() + (left == right).double() / 2


def _ends(values: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def _split(scores: Sequence[float], truths: Sequence[bool]) -> tuple[list[float], list[float]]:
    """Scores of the backdoored and of the clean models."""
    pairs = list(zip(scores, truths, strict=True))
    return [s for s, truth in pairs if truth], [s for s, truth in pairs if not truth]


def _require_pairs(scores: Sequence[float], truths: Sequence[bool]) -> None:
    if not scores or len(scores) != len(truths):
        raise ValueError(f"expected one truth a score, got {len(scores)} and {len(truths)}")
