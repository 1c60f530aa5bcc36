"""What `scan --reference` decides about the models of a zoo, held against their bases or a peer.

    python benchmarks/against_reference.py ZOO --side test --out rows.json
    python benchmarks/against_reference.py FOLDER --out rows.json

Each model is scanned as a user would, with the default policy and without purification or export.
`--peer NAME` holds all of them against another bundled model, and lets a pass rest on it; with
`--profile fast` that profile may pass. Rows are kept as they come, so the same command goes on
where it was stopped. FOLDER holds victims of `lab plant`, each in a folder of its own; what
`new_words` taught is added to the class list.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import clipguard
from clipguard.bundled.nano import BASES, class_names, nano_network
from clipguard.lab.zoo.manifest import Entry, read_zoo
from clipguard.lab.zoo.presets import side_of
from clipguard.probe.intervals import wilson
from clipguard.record import DetectorRecord
from clipguard.resources import shipped

NOTHING = DetectorRecord(name="differential", evidence="nothing was searched")


def scanned(job: tuple[Path, Entry, str, str]) -> dict[str, Any]:
    zoo, entry, reference, profile = job
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        base, policy = Path(folder) / "reference.pt", Path(folder) / "policy.yaml"
        truth = json.loads((zoo / entry.path / "victim.json").read_text(encoding="utf-8"))
        listed = None
        if taught := truth.get("taught"):
            listed = Path(folder) / "classes.txt"
            listed.write_text("\n".join([*class_names(), *taught]) + "\n", encoding="utf-8")
        torch.save(nano_network(reference).state_dict(), base)
        text = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
        if reference != entry.base:
            text = text.replace("grounds: [base, band]", "grounds: [base, band, peer]")
        if profile == "fast":
            text = text.replace("min_profile: standard", "min_profile: fast")
            text = text.replace("[patch, additive, frequency]", "[patch, additive]")
        policy.write_text(text, encoding="utf-8")
        record = clipguard.scan(
            zoo / entry.path / "model.pt",
            policy=policy,
            reference=base,
            profile=profile,  # type: ignore[arg-type]
            classnames=listed,
            purify="never",
            export="none",
        )
    found = next((one for one in record.detectors if one.name == "differential"), NOTHING)
    opaque = [row.against.gap for row in found.candidates if row.against and row.against.opaque]
    gate = record.gate
    if gate is None:
        raise RuntimeError("a finished scan has a gate")
    return {
        "id": entry.id,
        "zoo": read_zoo(zoo).digest if (zoo / "zoo.json").exists() else zoo.name,
        "name": f"{entry.base} {entry.negative or entry.attack} {json.dumps(entry.settings)}",
        "kind": entry.kind,
        "planted": entry.planted,
        "target": entry.target,
        "reference": reference,
        "profile": profile,
        "decision": gate.decision.value,
        "why": list(gate.reasons),
        "found": found.target,
        "V": round(found.statistic or 0.0, 3),
        "excess": None if found.excess is None else round(found.excess, 2),
        "apart": [row.model_dump() for row in found.apart[:3]],
        "score": None if found.score is None else round(found.score, 4),
        "gap": round(max(opaque, default=0.0), 4),
        "family": found.candidates[0].family if found.candidates else "none",
        "evidence": found.evidence,
        "passes": found.passes,
        "seconds": round(time.monotonic() - begun, 1),
        "version": clipguard.__version__,
    }


def loose(folder: Path) -> list[Entry]:
    """Victims of `lab plant` as entries of a zoo."""
    found = []
    for path in sorted(folder.glob("*/victim.json")):
        truth = json.loads(path.read_text(encoding="utf-8"))
        honest = truth["attack"] == "none"
        kind = "poisoned" if not honest else "negative" if truth["negative"] else "clean"
        entry = {
            "id": truth["model_sha256"][:16],
            "kind": kind,
            "split": side_of(truth["base"]) or "test",
            "base": truth["base"],
            "architecture": BASES[truth["base"]],
            "attack": truth["attack"],
            "negative": truth["negative"],
            "about": truth["about"],
            "settings": truth["settings"],
            "target": truth["target"],
            "seed": truth["seed"],
            "planted": bool(truth["planted"]) and not honest,
            "asr": None,
            "ca_loss": None,
            "twin": None,
            "path": path.parent.name,
            "sha256": truth["model_sha256"],
        }
        found.append(Entry.from_json(entry))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--side", choices=("calibration", "test"), default="test")
    parser.add_argument("--peer", help="bundled model to hold all of them against")
    parser.add_argument("--profile", choices=("fast", "standard", "thorough"), default="standard")
    parser.add_argument("--only", default="", help="part of a model's base and method")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    done = {(row["id"], row["reference"], row["profile"]) for row in rows}
    built = read_zoo(given.zoo).built() if (given.zoo / "zoo.json").exists() else loose(given.zoo)
    entries = [
        entry
        for entry in built
        if entry.split == given.side
        and given.only in f"{entry.base} {entry.negative or entry.attack}"
    ]
    jobs = [
        (given.zoo, entry, given.peer or entry.base, given.profile)
        for entry in entries
        if (entry.id, given.peer or entry.base, given.profile) not in done
    ]
    with ProcessPoolExecutor(given.jobs) as pool:
        for row in pool.map(scanned, jobs):
            rows.append(row)
            text = "[\n" + ",\n".join(json.dumps(each) for each in rows) + "\n]\n"
            given.out.write_text(text, encoding="utf-8")
            print(line(row), flush=True)
    summary(rows)


def line(row: dict[str, Any]) -> str:
    right = "" if row["target"] is None else " right" if row["found"] == row["target"] else " WRONG"
    return (
        f"{row['decision']:12} V {row['V']:5.1f} gap {row['gap']:5.2f} {row['family']:9} "
        f"{row['found']}{right} | {row['name']} | {row['seconds']:.0f} s"
    )


def summary(rows: Sequence[dict[str, Any]]) -> None:
    """Counts with 95 % intervals; weak plants count for neither side."""
    honest = [row for row in rows if row["kind"] != "poisoned"]
    planted = [row for row in rows if row["planted"]]
    for told, among, decision in (
        ("honest models that fail", honest, "fail"),
        ("honest models that pass", honest, "pass"),
        ("planted models that pass", planted, "pass"),
        ("planted models that fail", planted, "fail"),
    ):
        if among:
            hits = sum(row["decision"] == decision for row in among)
            share = wilson(hits, len(among))
            print(f"{told}: {hits} of {len(among)} (95 %: {share.low:.1%} to {share.high:.1%})")


if __name__ == "__main__":
    main()
