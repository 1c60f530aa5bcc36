"""Null bands: the pipeline's statistics on known-clean models of one family."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipguard.checkpoint.architectures import Architecture, known_configs
from clipguard.checkpoint.configs import OPENAI
from clipguard.errors import UsageError
from clipguard.files import read_given
from clipguard.probe.sets import BUNDLED, ProbeSet
from clipguard.record import CalibrationRecord, FamilyRecord
from clipguard.record.schema import first_problem
from clipguard.registry import digest_of
from clipguard.resources import asset, data_digest
from clipguard.text_safety import safe_text

SPREAD_FLOOR = 0.25
MIN_MODELS = 5
ARTWORK = ("artwork.zip",)
"""What the scenes of the bundled probe set are made of."""


class CleanModel(BaseModel):
    """One known-clean model and its statistic per trigger family."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    sha256: str
    statistics: dict[str, Annotated[float, Field(ge=-1000, le=1000)]]


class Calibration(BaseModel):
    """A null band and where it came from.

    Attributes:
        schema_version: of the file.
        key: which scans it may be compared with, see `scan_key`.
        command: how it was made.
        models: the known-clean models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal["clipguard.calibration/1"] = "clipguard.calibration/1"
    key: str
    command: str
    models: tuple[CleanModel, ...] = Field(min_length=MIN_MODELS, max_length=10_000)

    @model_validator(mode="after")
    def _independent(self) -> Calibration:
        if len({model.sha256 for model in self.models}) < len(self.models):
            raise ValueError("one model stands in it twice; a null band needs independent models")
        return self


def family_of(architecture: Architecture) -> str:
    """Name of a model family: the architecture, and a digest where that may differ by file.

    A config of somebody's own is named after its file, and its preprocessing travels with the
    model, so names alone would let one family be read against another's null band.
    """
    published = architecture.name in known_configs() and architecture.preprocess == OPENAI
    if published:
        return architecture.name
    told = f"{sorted(architecture.config.items())} {architecture.preprocess}"
    return f"{architecture.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def scan_key(family: str, profile: str, detector: object, scenes: object, probe: ProbeSet) -> str:
    """Name of the scans that may be compared: the same architecture, search, images and classes.

    Made of declared ids, settings and digests of data; no name of a class or module is part of it,
    and no seed, because a band holds the luck of the search.

    Args:
        family: of models, see `family_of`.
        profile: standard or thorough.
        detector: what searches.
        scenes: size of the bundled probe set.
        probe: its source, class names and templates count.
    """
    drawn = [scenes, data_digest(ARTWORK)] if probe.source == BUNDLED else None
    told = [detector, probe.source, drawn, probe.class_names, probe.templates]
    return f"{family}/{profile}/{digest_of(told)[:12]}"


@dataclass(frozen=True)
class Band:
    """A null band ready for comparison.

    Attributes:
        calibration: the models behind it.
        sha256: digest of the file it was read from.
    """

    calibration: Calibration
    sha256: str

    def compare(
        self, statistics: Mapping[str, float]
    ) -> tuple[tuple[FamilyRecord, ...], float, float]:
        """Place a model's statistics in the band.

        The maximum over families is compared with the maxima of the clean models, each of them
        standardised by the others, so that looking at several families is paid for.

        Args:
            statistics: per trigger family; only families of the band count.

        Returns:
            One record per family, the largest excess, and the conformal p-value of the maximum.

        Raises:
            UsageError: the band lacks a family that was searched.
        """
        rows = [dict(model.statistics) for model in self.calibration.models]
        missing = [name for name in statistics if any(name not in row for row in rows)]
        if missing:
            raise UsageError(f"the calibration has no {missing[0]} statistics; calibrate again")
        records = []
        for name, value in statistics.items():
            null = sorted(row[name] for row in rows)
            records.append(
                FamilyRecord(
                    family=name,
                    tested=True,
                    statistic=value,
                    null=tuple(null),
                    excess=excess_over_null(value, null),
                )
            )
        top = max(excess_over_null(v, [row[n] for row in rows]) for n, v in statistics.items())
        null_tops = []
        for i in range(len(rows)):
            others = rows[:i] + rows[i + 1 :]
            null_tops.append(
                max(excess_over_null(rows[i][n], [o[n] for o in others]) for n in statistics)
            )
        return tuple(records), top, conformal_p(top, null_tops)


def excess_over_null(value: float, null: Sequence[float]) -> float:
    """Distance of `value` from the mean of `null` in predictive standard deviations.

    The spread has a floor of `SPREAD_FLOOR`, because a handful of equal values is luck, and is
    widened by sqrt(1 + 1/n) for the uncertainty of the mean.
    """
    mean = sum(null) / len(null)
    variance = sum((other - mean) ** 2 for other in null) / max(1, len(null) - 1)
    return (value - mean) / (max(SPREAD_FLOOR, math.sqrt(variance)) * math.sqrt(1 + 1 / len(null)))


def read_null_band(path: Path) -> Band:
    """Read a calibration file.

    Raises:
        UsageError: missing, too large, or not a calibration file.
    """
    try:
        text = read_given(path, 16_000_000)
        return Band(
            Calibration.model_validate_json(text), hashlib.sha256(text.encode()).hexdigest()
        )
    except ValidationError as error:
        told = f"{safe_text(path.name)} is no calibration file: {first_problem(error)}"
        raise UsageError(told) from error


def shipped_null_band(key: str) -> Band | None:
    """The shipped null band for scans named `key`, if there is one."""
    for path in sorted(asset("calibration").glob("*.json")):
        band = read_null_band(path)
        if band.calibration.key == key:
            return band
    return None


def dump_null_band(calibration: Calibration) -> str:
    """The file's text, one model a line so that a change can be reviewed."""
    head = calibration.model_dump(exclude={"models"})
    lines = ",\n".join("  " + json.dumps(m.model_dump()) for m in calibration.models)
    return json.dumps(head, indent=1)[:-2] + ',\n "models": [\n' + lines + "\n ]\n}\n"


def choose_band(
    key: str, given: Path | None, advice: tuple[str, str]
) -> tuple[Band | None, CalibrationRecord]:
    """The null band for scans named `key`, and what the record says of it.

    Args:
        key: made by `scan_key`.
        given: calibration file to use; None for the shipped ones.
        advice: the command that holds the model against a reference instead, and those that make
            a band and use it.

    Raises:
        UsageError: the file that was given is for other scans.
    """
    band = read_null_band(given) if given else shipped_null_band(key)
    if band is None:
        reason = (
            f"no null band for {key}; give the checkpoint that it was made from: {advice[0]}; or "
            f"make a band from 20 or more known-clean models of this family: {advice[1]}"
        )
        return None, CalibrationRecord(kind="none", reason=reason)
    if band.calibration.key != key:
        raise UsageError(
            f"the calibration is for {safe_text(band.calibration.key)}, this scan is {key}; make "
            "one with `clipguard calibrate` and the options of this scan"
        )
    models = len(band.calibration.models)
    return band, CalibrationRecord(kind="models", family=key, models=models, sha256=band.sha256)


def conformal_p(value: float, null: Sequence[float]) -> float:
    """Share of null values at least as large as `value`, counting `value` itself.

    The smallest possible result is 1/(n+1): a null band of n models cannot say more.

    Source:
        Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, ch. 2.
    """
    return (1 + sum(other >= value for other in null)) / (len(null) + 1)


def log_odds(share: float, trials: int) -> float:
    """Log odds of a share with half a trial added on both sides, so that 0 and 1 stay finite.

    Args:
        share: in [0, 1].
        trials: what it was measured on, at least 1.

    Source:
        Haldane-Anscombe correction.
    """
    hits = share * trials
    return math.log((hits + 0.5) / (trials - hits + 0.5))
