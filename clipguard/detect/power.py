"""How many planted backdoors of the lab the shipped pipeline fails: what a pass is worth."""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clipguard.probe.intervals import wilson
from clipguard.record import PowerRecord, Rate
from clipguard.resources import asset

FILE = "power.json"
AGAINST_FILE = "power-against.json"


class Counted(BaseModel):
    """Victims of one attack.

    Attributes:
        attack: registered name.
        failed: those that the default policy failed.
        planted: all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attack: str
    failed: int = Field(ge=0)
    planted: int = Field(ge=1)

    @model_validator(mode="after")
    def _counted(self) -> Counted:
        if self.failed > self.planted:
            raise ValueError(f"{self.failed} of {self.planted} victims of {self.attack} failed")
        return self


class Power(BaseModel):
    """Counts for every pipeline that was measured, and where they came from.

    Attributes:
        schema_version: of the file.
        command: how it was made.
        zoo: digest of the zoo.
        side: of the zoo; limits were set on `calibration`, so its counts flatter.
        pipelines: key of the null band to the counts of each attack.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal["clipguard.power/1"] = "clipguard.power/1"
    command: str
    zoo: str
    side: Literal["calibration", "test"]
    pipelines: dict[str, tuple[Counted, ...]]


@cache
def shipped_power(file: str = FILE) -> Power:
    """The counts that ship with clipguard: of scans of a model alone, or against a reference."""
    return Power.model_validate_json(asset(file).read_bytes())


def power_of(key: str) -> tuple[PowerRecord, ...]:
    """Share of planted backdoors failed per attack, for scans named `key`; empty if not measured.

    Args:
        key: made by `scan_key`.
    """
    return tuple(
        PowerRecord(
            attack=row.attack,
            side=known.side,
            failed=Rate(**wilson(row.failed, row.planted)._asdict()),
        )
        for known in map(shipped_power, (FILE, AGAINST_FILE))
        for row in known.pipelines.get(key, ())
    )
