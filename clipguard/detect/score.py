"""What an excess over known-clean models is worth, as a probability fitted on the lab's models."""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from clipguard.detect.four_rates import told
from clipguard.detect.roles import Finding
from clipguard.record import Candidate
from clipguard.registry import digest_of
from clipguard.resources import asset

FILE = "suspicion.json"
AGAINST_FILE = "differential.json"


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
        odds = self.slope * distance(excess) + self.intercept
        small = math.exp(-abs(odds))  # cannot overflow
        return 1 / (1 + small) if odds >= 0 else small / (1 + small)


def distance(excess: float) -> float:
    """log(1 + excess) with the sign of the excess, which is in null standard deviations."""
    return math.copysign(math.log1p(abs(excess)), excess)


@cache
def shipped_suspicion() -> Suspicion:
    """The curve that ships with clipguard."""
    return Suspicion.model_validate_json(asset(FILE).read_bytes())


class AgainstReference(Suspicion):
    """The same for one differential search and one kind of reference.

    The excess is that of V over honest models, for the kind of trigger where it is largest. V of
    sinusoids varies among honest models two or three times as much as V of small patches.

    Attributes:
        usual: of each kind of trigger, mean and deviation of V among the honest models.
        detector: digest of the search and its settings; of another, these figures say nothing.
        role: what the reference was to the models.
        families: model families that it was fitted on.
    """

    usual: dict[str, tuple[float, Annotated[float, Field(gt=0)]]]
    detector: str
    role: Literal["base", "peer"]
    families: tuple[str, ...]


class AgainstReferences(BaseModel):
    """The file with all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal["clipguard.against/1"] = "clipguard.against/1"
    curves: tuple[AgainstReference, ...]


@cache
def shipped_against() -> AgainstReferences:
    """The curves that ship with clipguard."""
    return AgainstReferences.model_validate_json(asset(AGAINST_FILE).read_bytes())


def curve_of(detector: object, role: str | None) -> AgainstReference | None:
    """The curve of a differential search against references of one role, if there is one."""
    digest = digest_of(detector)
    matching = (c for c in shipped_against().curves if (c.detector, c.role) == (digest, role))
    return next(matching, None)


def scored(finding: Finding, curve: AgainstReference | None, family: str) -> Finding:
    """The finding with the probability that it stands for, where that is known.

    Args:
        finding: of a differential search.
        curve: made for that search.
        family: of the model; of one that the curve was not fitted on the score is extrapolated.

    Returns:
        Candidates by their excess, the largest first; without a curve as they were.
    """
    record = finding.record
    if curve is None:
        extrapolated = record.model_copy(update={"extrapolated": True})
        return Finding(extrapolated, finding.triggers)
    pairs = [
        (row.model_copy(update={"excess": excess_of(row, curve)}), trigger)
        for row, trigger in zip(record.candidates, finding.triggers, strict=True)
    ]
    pairs.sort(key=lambda pair: _rank(pair[0]), reverse=True)
    known = all(row.excess is not None or row.lead is None for row, _ in pairs)
    first, triggers = pairs[0][0], tuple(trigger for _, trigger in pairs)
    update = {
        "candidates": tuple(row for row, _ in pairs),
        "excess": first.excess,
        "statistic": first.lead,
        "target": first.target,
        "evidence": told(first),
        "score": curve.probability(_rank(first)) if known else None,
        "extrapolated": family not in curve.families,
    }
    return Finding(record.model_copy(update=update), triggers)


def _rank(row: Candidate) -> float:
    return -math.inf if row.excess is None else row.excess


def excess_of(row: Candidate, curve: AgainstReference) -> float | None:
    """How far V lies above that of honest models, in their deviations.

    Args:
        row: a candidate of a differential search.
        curve: with what is usual; none where it does not know the kind of trigger.
    """
    lead = row.lead
    if lead is None or row.against is None or row.against.kind not in curve.usual:
        return None
    mean, deviation = curve.usual[row.against.kind]
    return (lead - mean) / deviation
