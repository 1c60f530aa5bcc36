"""What an excess over the null band is worth, as a probability fitted on the lab's models."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from clipguard.resources import asset

FILE = "suspicion.json"


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
