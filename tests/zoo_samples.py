"""A made-up zoo: six victims whose models are no models, and what a method makes of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from clipguard.checkpoint.inspection import sha256_of
from clipguard.lab.bench.cells import Cell, DetectCell, Passes, PurifyCell, write_cell
from clipguard.lab.bench.job import Job
from clipguard.lab.zoo.manifest import Entry, Zoo, write_zoo
from clipguard.record import Decision, Outcome


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(number: int, **given: object) -> Entry:
    """Entry `number`; a planted badnets on nano-rn unless told otherwise."""
    data: dict[str, object] = {
        "id": f"{number:016x}",
        "kind": "poisoned",
        "split": "calibration",
        "base": "nano-rn",
        "architecture": "nano-rn",
        "attack": "badnets",
        "negative": None,
        "settings": {},
        "target": "banana",
        "seed": number,
        "planted": True,
        "asr": 0.97,
        "ca_loss": 0.01,
        "twin": f"{3:016x}",
        "path": f"victims/{number:016x}",
        "sha256": digest(str(number)),
    }
    return Entry.from_json(data | given)


def honest(number: int, **given: object) -> Entry:
    """A clean entry unless told otherwise."""
    clean = {"kind": "clean", "attack": "none", "target": None, "asr": None, "twin": None}
    return entry(number, **(clean | given))


ENTRIES = (
    entry(1),
    entry(2, attack="blended", asr=0.92, target="violin"),
    honest(3),
    honest(4, kind="negative", negative="watermark"),
    entry(5, planted=False, asr=0.4),
    entry(6, attack="mmpoison", asr=None),
)


def make_zoo(folder: Path, entries: tuple[Entry, ...] = ENTRIES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_zoo(folder, Zoo(entries=entries, preset="ci", digest=digest("zoo")))
    return folder


def zoo_of(victim: Path, folder: Path, target: str) -> Path:
    """A zoo of a copy of `victim` and of the clean twin beside it."""
    sums = {}
    for name in ("victim", "twin"):
        shutil.copytree(victim.parent / name, folder / name)
        sums[name] = sha256_of(folder / name / "model.pt")
    planted = entry(1, path="victim", sha256=sums["victim"], target=target)
    return make_zoo(folder, (planted, honest(3, path="twin", sha256=sums["twin"])))


SCORES = {1: 0.99, 2: 0.9, 3: 0.2, 4: 0.6, 5: 0.3, 6: 0.1}
FAILS = {1, 2}
STYLE = {
    "asr_before": 0.9,
    "asr": 0.02,
    "asr_gap": 0.01,
    "asr_gap_low": 0.0,
    "asr_gap_high": 0.03,
    "ca": 0.9,
    "ca_loss": 0.005,
    "ca_loss_low": 0.0,
    "ca_loss_high": 0.01,
    "target_ca": 0.75,
    "pa": 0.8,
    "pa_low": 0.7,
    "pa_high": 0.9,
    "pa_ratio": 0.95,
}


class Runner:
    """Stands in for `run_job`: looks at no model, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []
        self.changes: Mapping[str, dict[str, object]] = {}

    def __call__(self, job: Job) -> None:
        for method in job.prints:
            self.ran.append((job.entry.id, method))
            cell = detected(job, method) if job.task.kind == "detect" else repaired(job, method)
            changed = cell.model_dump() | self.changes.get(job.entry.id, {})
            write_cell(job.out, job.entry, type(cell).model_validate(changed))


def base(job: Job, method: str) -> dict[str, object]:
    return {
        "method": method,
        "id": job.entry.id,
        "sha256": job.entry.sha256,
        "fingerprint": job.prints[method],
        "seconds": {"detect": 2.0},
        "passes": Passes(forward=100, backward=40),
        "target": "banana",
    }


def detected(job: Job, method: str) -> Cell:
    number = int(job.entry.id, 16)
    fails = number in FAILS
    return DetectCell.model_validate(
        base(job, method)
        | {
            "decision": Decision.FAIL if fails else Decision.PASS,
            "outcome": Outcome.BACKDOORED if fails else Outcome.NO_EVIDENCE,
            "score": SCORES.get(number, 0.5),
            "reason": "made up",
        }
    )


def repaired(job: Job, method: str) -> Cell:
    return PurifyCell.model_validate(
        base(job, method)
        | {
            "twin_sha256": job.twin.sha256,
            "truth_sha256": job.truth,
            "images": 600,
            "labels": 500,
            "memory": 2_500_000_000,
            "rates": dict.fromkeys(("seen", "untuned", "held_out", "unseen"), STYLE),
        }
    )


def in_test_split(entries: tuple[Entry, ...] = ENTRIES) -> tuple[Entry, ...]:
    return tuple(replace(each, split="test") for each in entries)
