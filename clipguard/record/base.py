"""What every part of the record is made of: words, shares, digests."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

HEAD_SCOPE: Final = (
    "Repairs the zero-shot classifier of this class list only. The image tower stays poisoned: "
    "other class lists, prompts, retrieval and fine-tuning are as exposed as before."
)
TOWER_SCOPE: Final = (
    "Repairs the image tower, for every class list, against the triggers that were found and those "
    "that are like them. A new search may still find weaker ones. The text tower is unchanged."
)
SCHEMA_VERSION: Final = "clipguard.audit/2"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A digest as `sha256sum` prints it."""


Severity = Literal["critical", "high", "medium", "low"]
"""How loud formats show a line that does not pass; the policy says which."""


class Outcome(str, Enum):
    """What a policy concludes from one detector, in ascending order of concern. Never "safe"."""

    NO_EVIDENCE = "no_evidence"
    INCONCLUSIVE = "inconclusive"
    SUSPICIOUS = "suspicious"
    BACKDOORED = "backdoored"


class Decision(str, Enum):
    """What the policy made of the outcomes."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


class Part(BaseModel):
    """Base of every part of the record: frozen, finite numbers only, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Rate(Part):
    """A share with its 95 % interval over `n` images (bootstrap over drawings where known)."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(ge=1)
