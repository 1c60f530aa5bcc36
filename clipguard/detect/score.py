"""What an excess over the null band is worth, as a probability fitted on the lab's models."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from clipguard.detect.roles import Finding
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
    """The same over V, for one differential search and one kind of reference.

    Attributes:
        detector: digest of the search and its settings; of another, these figures say nothing.
        role: what the reference was to the models.
        families: model families that it was fitted on.
    """

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
    """The finding with the probability that its V stands for, where that is known.

    Args:
        finding: of a differential search.
        curve: made for that search.
        family: of the model; of one that the curve was not fitted on the score is extrapolated.
    """
    value = finding.record.statistic
    score = None if curve is None or value is None else curve.probability(value)
    beyond = curve is None or family not in curve.families
    update = {"score": score, "extrapolated": beyond}
    return Finding(finding.record.model_copy(update=update), finding.triggers)
