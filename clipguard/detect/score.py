"""What an excess over the null band is worth, as a probability fitted on the lab's models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from clipguard.resources import asset

FILE = "suspicion.json"
ROUNDS = 100
STILL = 1e-9


class Suspicion(BaseModel):
    """A logistic curve over the logarithm of the excess, and where it came from.

    The logarithm, because victims lie anywhere from a few to twenty null standard deviations out:
    over the excess itself the curve would be as wide as they are, and put its middle halfway to
    them, far beyond any honest model.

    Attributes:
        schema_version: of the file.
        command: how it was made.
        zoo: digest of the zoo whose calibration side it was fitted on.
        poisoned: backdoored models among those.
        honest: clean models and hard negatives among those.
        slope: of the log odds, per unit of `distance`; more excess is more suspicious.
        intercept: log odds at no excess.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal["clipguard.suspicion/1"] = "clipguard.suspicion/1"
    command: str
    zoo: str
    poisoned: int = Field(ge=1)
    honest: int = Field(ge=1)
    slope: float = Field(gt=0, le=1000)
    intercept: float = Field(ge=-1000, le=1000)

    def probability(self, excess: float) -> float:
        """Probability in (0, 1) that a model with this excess is backdoored.

        As far as the lab's share of backdoored models and its attacks go: it is no rate of the
        models that a user meets.
        """
        return _logistic(self.slope * distance(excess) + self.intercept)


def distance(excess: float) -> float:
    """log(1 + excess) with the sign of the excess, which is in null standard deviations."""
    return math.copysign(math.log1p(abs(excess)), excess)


@cache
def shipped_suspicion() -> Suspicion:
    """The curve that ships with clipguard."""
    return Suspicion.model_validate_json(asset(FILE).read_bytes())


def platt(distances: Sequence[float], truths: Sequence[bool]) -> tuple[float, float]:
    """Slope and intercept of the log odds of being backdoored, by penalised maximum likelihood.

    The truths are moved a little towards each other, as if one more model of either kind had
    been seen on the other side. So the curve is finite where both kinds are apart, and claims no
    more certainty than so few models can show.

    Args:
        distances: one a model.
        truths: whether each is backdoored.

    Raises:
        ValueError: lengths that differ, or only one kind of model.

    Source:
        Platt, Probabilistic Outputs for Support Vector Machines, 1999, with the safeguarded Newton
        steps of Lin, Lin and Weng, A Note on Platt's Probabilistic Outputs, 2007.
    """
    bad = sum(truths)
    good = len(truths) - bad
    if len(distances) != len(truths) or not bad or not good:
        raise ValueError(f"expected both kinds of model, got {bad} backdoored and {good} honest")
    aims = [(bad + 1) / (bad + 2) if truth else 1 / (good + 2) for truth in truths]
    slope, intercept = 0.0, math.log((bad + 1) / (good + 1))
    for _ in range(ROUNDS):
        step = _newton(distances, aims, slope, intercept)
        size, now = 1.0, _loss(distances, aims, slope, intercept)
        while size > STILL:
            tried = slope + size * step[0], intercept + size * step[1]
            if _loss(distances, aims, *tried) < now:
                slope, intercept = tried
                break
            size /= 2
        else:
            break
    return slope, intercept


def _newton(
    distances: Sequence[float], aims: Sequence[float], slope: float, intercept: float
) -> tuple[float, float]:
    """One Newton step; a little is added to the curvature, so that it can always be solved."""
    odds = [_logistic(slope * x + intercept) for x in distances]
    weights = [p * (1 - p) for p in odds]
    gaps = [aim - p for aim, p in zip(aims, odds, strict=True)]
    xx = sum(w * x * x for w, x in zip(weights, distances, strict=True)) + STILL
    x1 = sum(w * x for w, x in zip(weights, distances, strict=True))
    one = sum(weights) + STILL
    gx, g1 = sum(g * x for g, x in zip(gaps, distances, strict=True)), sum(gaps)
    area = xx * one - x1 * x1
    return (one * gx - x1 * g1) / area, (xx * g1 - x1 * gx) / area


def _loss(
    distances: Sequence[float], aims: Sequence[float], slope: float, intercept: float
) -> float:
    """Cross-entropy in nats, written so that no exponent overflows."""
    total = 0.0
    for x, aim in zip(distances, aims, strict=True):
        odds = slope * x + intercept
        total += max(odds, 0.0) + math.log1p(math.exp(-abs(odds))) - aim * odds
    return total


def _logistic(odds: float) -> float:
    """1 / (1 + exp(-odds)), for any odds."""
    small = math.exp(-abs(odds))
    return 1 / (1 + small) if odds >= 0 else small / (1 + small)
