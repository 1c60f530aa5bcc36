"""Cells of the benchmark matrix: what one method made of one victim, kept in a file of its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import torch
from pydantic import Field, ValidationError

from clipguard.audit.profiles import profile
from clipguard.checkpoint.sandbox import SandboxMode
from clipguard.detect.roles import Detector
from clipguard.errors import UsageError
from clipguard.files import write_atomic
from clipguard.lab.comparators import DETECTORS
from clipguard.lab.comparators.repairs import REPAIRS
from clipguard.lab.zoo.manifest import TRUTH_LIMIT, Entry, read_zoo_file
from clipguard.policy.judge import load_policy
from clipguard.purify.methods import PURIFIERS
from clipguard.purify.repair import WAYS, RepairSettings
from clipguard.record import Decision, Outcome, Part, Sha256
from clipguard.registry import digest_of, require_known
from clipguard.resources import data_digest
from clipguard.text_safety import safe_text

if TYPE_CHECKING:  # looking up a name needs no training code
    from clipguard.lab.comparators.repairs._role import Repair

PROFILE, POLICY = "standard", "default"
FOLDER = "cells"
MAIN = "inversion"
Kind = Literal["detect", "purify"]
TRIGGER_LIMIT = 64_000_000
FORMAT = "cell/2"
"""Rises when the benchmark itself makes other cells of the same methods."""
DATA = ("artwork*.zip", "classnames.txt", "calibration/*.json", "suspicion.json")
"""Shipped files that a cell's content depends on."""
BASE_MODELS = ("*.safetensors",)
"""Those that a repair of the literature may be given."""


class Passes(Part):
    """Images that went through the image tower, and gradients that came back, one by one."""

    forward: int = Field(default=0, ge=0, le=10**15)
    backward: int = Field(default=0, ge=0, le=10**15)


class Cell(Part):
    """What every cell says.

    Attributes:
        method: registered name.
        id: of the victim.
        sha256: of its `model.pt`.
        fingerprint: of ids, settings, seed and shipped data.
        made_with: versions of clipguard and of the libraries under it; they decide nothing here.
        seconds: wall time per stage.
        passes: encoder passes of the search, and of the repair where there is one.
        target: class ranked first, if the search came that far.
        error: what broke; None if nothing did.
    """

    method: str
    id: str
    sha256: Sha256
    fingerprint: Sha256
    made_with: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    passes: Passes = Passes()
    target: str | None = None
    error: str | None = None


class DetectCell(Cell):
    """What a detector and the default policy made of one victim.

    Attributes:
        decision: of the default policy; inconclusive where something broke.
        outcome: what the detector concluded.
        score: suspicion in [0, 1]; None without a null band.
        excess: largest family excess, in null standard deviations.
        p_value: conformal, of the whole pipeline's maximum.
        statistic: what models are ranked by, in the detector's own unit.
        reason: one sentence.
    """

    kind: Literal["detect"] = "detect"
    decision: Decision = Decision.INCONCLUSIVE
    outcome: Outcome | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    excess: float | None = None
    p_value: float | None = Field(default=None, ge=0, le=1)
    statistic: float | None = None
    reason: str = ""


class PurifyCell(Cell):
    """How one victim does under its true trigger after a purifier.

    Attributes:
        twin_sha256: of the clean twin it is compared with.
        truth_sha256: what `truth_digest` said of the victim.
        images: clean images that a repair may use.
        labels: those among them whose true class it was told.
        memory: most bytes of the host's memory that the process held during the repair, with what
            it held before; None where the system does not say.
        inapplicable: why this repair cannot be made for this model; nothing is measured then.
        rates: per style what `evaluate_classes` returns; empty where something broke.
    """

    kind: Literal["purify"] = "purify"
    twin_sha256: Sha256
    truth_sha256: Sha256
    images: int = 0
    labels: int = 0
    memory: int | None = None
    inapplicable: str | None = None
    rates: dict[str, dict[str, float]] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to run on every victim.

    Attributes:
        kind: detect or purify.
        methods: registered names, each once.
        seed: of every scan.
        device: where to compute.
        sandbox: what a model is read in, see `Guard.mode`; it decides nothing.
    """

    kind: Kind
    methods: tuple[str, ...]
    seed: int = 0
    sandbox: SandboxMode = "auto"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def words(self, method: str) -> bool:
        """Whether a cell of `method` holds the search for token triggers that a scan makes.

        Heads hold no prompts, and comparators are no part of a scan: neither needs the words.
        """
        return self.kind == "detect" and method == MAIN


def known_methods(kind: Kind) -> list[str]:
    """Names that a cell may have: detectors, or every repair, ours and the literature's."""
    if kind == "detect":
        return DETECTORS.names()
    return sorted({*PURIFIERS.names(), *WAYS, *REPAIRS.names()})


def require_methods(kind: Kind, names: tuple[str, ...]) -> None:
    """Refuse a method that does not exist, with a suggestion.

    Raises:
        UsageError: unknown.
    """
    what = (DETECTORS if kind == "detect" else PURIFIERS).what
    for name in names:
        require_known(name, known_methods(kind), what)


def repair_settings(method: str) -> RepairSettings:
    """The standard profile's repair by the way `method`; another purifier with its defaults.

    For a repair of the literature what it searches triggers with, as the default does.
    """
    standard = profile(PROFILE).repair
    if method in REPAIRS.names():
        return standard
    if method in WAYS:
        return standard.by(method)
    return replace(standard, realign=None, purifier=PURIFIERS.build(method))


def literature(method: str) -> Repair | None:
    """The repair of the literature of this name, with its defaults; None for one of ours."""
    return REPAIRS.build(method) if method in REPAIRS.names() else None


def detector_of(task: Task, method: str) -> Detector:
    """The detector that a cell of `method` searches with; comparators with their defaults."""
    if task.kind == "purify" or method == MAIN:
        return profile(PROFILE).detector
    return DETECTORS.build(method)


def fingerprint(task: Task, method: str) -> str:
    """Digest of everything but the model that a cell's content depends on: ids, settings, data.

    No code: a method whose results change has an `ID` with a higher number.
    """
    settings = profile(PROFILE)
    theirs = literature(method) if task.kind == "purify" else None
    told = {
        "format": FORMAT,
        "kind": task.kind,
        "detector": detector_of(task, method),
        "text": settings.text if task.words(method) else None,
        "repair": repair_settings(method) if task.kind == "purify" else None,
        "literature": theirs and (theirs, data_digest(BASE_MODELS)),
        "scenes": settings.scenes,
        "policy": load_policy(POLICY).sha256,
        "seed": task.seed,
        "device": str(task.device),
        "data": data_digest(DATA),
    }
    return digest_of(told)


def truth_digest(zoo: Path, entry: Entry) -> str:
    """Digest of what an evaluation reads beside the weights: the truth, and a kept trigger.

    A file that is not there counts as an empty one: most triggers are drawn again from the seed.

    Raises:
        UsageError: one that leads out of the zoo, is no ordinary file, is too large, or cannot be
            read.
    """
    digest = hashlib.sha256()
    for name, limit in (("victim.json", TRUTH_LIMIT), ("trigger.safetensors", TRIGGER_LIMIT)):
        try:
            data = read_zoo_file(zoo, f"{entry.path}/{name}", limit)
        except FileNotFoundError:
            data = b""
        except (OSError, UsageError, RuntimeError) as error:
            raise UsageError(f"cannot read {entry.path}/{name}: {safe_text(error)}") from error
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


AnyCell = TypeVar("AnyCell", bound=Cell)


def read_cell(
    kind: type[AnyCell], out: Path, entry: Entry, method: str, wanted: str
) -> AnyCell | None:
    """The cell of `entry`, unless there is none of this model and these settings.

    Args:
        kind: `DetectCell` or `PurifyCell`.
        out: output folder of the benchmark.
        entry: the victim, built.
        method: registered name.
        wanted: fingerprint it must have.
    """
    try:
        text = _path(out, entry, method).read_text(encoding="utf-8")
        cell = kind.model_validate_json(text)
    except (OSError, ValidationError, UnicodeDecodeError):
        return None  # absent or of another version: it is made again either way
    same = (cell.method, cell.id, cell.sha256, cell.fingerprint)
    return cell if same == (method, entry.id, entry.sha256, wanted) else None


def write_cell(out: Path, entry: Entry, cell: Cell) -> None:
    """Keep a cell, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    text = json.dumps(cell.model_dump(mode="json"), indent=1, allow_nan=False)
    write_atomic(_path(out, entry, cell.method), text + "\n")


def _path(out: Path, entry: Entry, method: str) -> Path:
    return out / FOLDER / method / f"{entry.id}.json"
