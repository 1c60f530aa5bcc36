"""Numbers and their intervals. Inputs are plain numbers or tensors, outputs plain numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

Z95 = 1.959964


class Interval(NamedTuple):
    """A share with its 95 % interval, all in [0, 1], from `n` trials."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: int, trials: int) -> Interval:
    """Share of independent trials that succeeded, with the Wilson score interval.

    Raises:
        ValueError: no trials; the share of nothing is not zero.

    Source:
        Wilson, Probable inference, JASA 1927.
    """
    if trials < 1:
        raise ValueError("expected at least one trial, got none")
    share, z2 = successes / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), trials)


def cluster_bootstrap(
    hits: Tensor, groups: Tensor, *, generator: torch.Generator, draws: int = 1000
) -> Interval:
    """Share of hits with an interval that resamples whole groups.

    Scenes composed from one drawing are not independent, so the drawing is the unit.

    Args:
        hits: (N,) bool.
        groups: (N,) integer id of the drawing behind each hit.
        generator: draws the resamples.
        draws: number of resamples.

    Raises:
        ValueError: no trials, or shapes that differ.
    """
    if hits.numel() == 0 or hits.shape != groups.shape:
        raise ValueError(f"expected equal, non-empty shapes, got {hits.shape} and {groups.shape}")
    _, index = torch.unique(groups, return_inverse=True)
    count = int(index.max()) + 1
    total = torch.bincount(index, minlength=count).double()
    good = torch.bincount(index, weights=hits.double(), minlength=count)
    share = (good.sum() / total.sum()).item()
    if count == 1:
        return wilson(int(good.sum()), int(total.sum()))
    picks = torch.randint(count, (draws, count), generator=generator)
    shares = good[picks].sum(dim=1) / total[picks].sum(dim=1)
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=shares.dtype)).tolist()
    if share in (0.0, 1.0):  # resampling a constant shows no spread; Wilson over groups does
        edge = wilson(count if share else 0, count)
        low, high = min(low, edge.low), max(high, edge.high)
    return Interval(share, low, high, int(total.sum()))


def paired_bootstrap(
    first: Tensor, second: Tensor, groups: Tensor, *, generator: torch.Generator, draws: int = 1000
) -> tuple[float, float, float]:
    """Difference of two shares on the same images, with a 95 % interval over groups.

    Args:
        first: (N,) bool.
        second: (N,) bool, same images.
        groups: (N,) integer id of the drawing behind each image.
        generator: draws the resamples.
        draws: number of resamples.

    Returns:
        Mean of first minus second, lower end, upper end.
    """
    _, index = torch.unique(groups, return_inverse=True)
    count = int(index.max()) + 1
    total = torch.bincount(index, minlength=count).double()
    gap = torch.bincount(index, weights=first.double() - second.double(), minlength=count)
    picks = torch.randint(count, (draws, count), generator=generator)
    means = gap[picks].sum(dim=1) / total[picks].sum(dim=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return (gap.sum() / total.sum()).item(), low, high
