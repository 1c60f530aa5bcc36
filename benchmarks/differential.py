"""How V separates planted models from honest ones, at several budgets of passes.

    python benchmarks/differential.py ZOO --budget all --kinds all --out rows.json
    python benchmarks/differential.py rows.json        # prints rows that were kept

Scans every built model of one side of a zoo against its base with the differential screen, and
prints V, the gaps and the class of each. `--budget all` does every profile and a smaller search.
`--kinds all` searches shapes of triggers that no profile does. `--reference` holds the models
against another bundled one instead. For development: what is chosen on the calibration side must
be reported on the other.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from clipguard.audit.profiles import KINDS, SEARCHED, profile
from clipguard.bundled.nano import nano_network
from clipguard.checkpoint.load import load_checkpoint
from clipguard.detect.differential import Differential
from clipguard.detect.four_rates import Four, Measured
from clipguard.lab.zoo.manifest import Entry, read_zoo
from clipguard.model.nano import nano_model
from clipguard.model.open_clip import OpenClipModel, build_model
from clipguard.probe.load import bundled_probe
from clipguard.probe.sets import Subject
from clipguard.search.pair import Effort

COMPARED = 2
SMALL = ("patch 2 %", "additive 4/255", "additive 16/255")


def searches(kinds: str) -> dict[str, tuple[tuple[str, ...], Differential]]:
    """Names of kinds and search of every budget."""
    names = tuple(KINDS) if kinds == "all" else SEARCHED
    shapes = tuple(KINDS[name] for name in names)
    small = Differential(
        kinds=tuple(KINDS[name] for name in SMALL),
        first=Effort(steps=3, images=2, step_size=2),
        screen=Effort(steps=12, images=4, step_size=2),
        groups=10,
        keep=2,
        controls=4,
        refine=Effort(steps=20, images=8, settle=True),
    )
    fast = profile("fast").differential
    return {
        "standard": (names, replace(profile("standard").differential, kinds=shapes)),
        "fast": (tuple(kind.name for kind in fast.kinds), fast),
        "small": (SMALL, small),
    }


def base_model(name: str, device: torch.device) -> OpenClipModel:
    network = nano_network(name).eval().requires_grad_(False).to(device)
    return nano_model(network, name)


def rows_of(
    job: tuple[Path, Entry, str, str, str | None, str, int],
) -> dict[str, Any]:
    folder, entry, budget, kinds, reference, device, seed = job
    torch.set_num_threads(1)
    model = build_model(load_checkpoint(folder / entry.path / "model.pt"), torch.device(device))
    base = base_model(reference or entry.base, torch.device(device))
    probe = bundled_probe(model.image_size, profile("standard").scenes, seed=seed)
    names, detector = searches(kinds)[budget]
    begun = time.monotonic()
    pair = detector.pair(Subject(model, probe), base)
    detector = replace(detector, compared=detector.controls)
    clean = detector.clean_readings(pair)
    measured = list(detector.measures(pair, clean, seed=seed, progress=lambda *_: None))
    return {
        "id": entry.id,
        "zoo": read_zoo(folder).digest,
        "name": f"{entry.base} {entry.negative or entry.attack} {json.dumps(entry.settings)}",
        "kind": entry.kind,
        "planted": entry.planted,
        "target": entry.target,
        "budget": budget,
        "reference": reference or entry.base,
        "seconds": round(time.monotonic() - begun, 1),
        "passes": pair.passes.counted,
        "moved": [pair.names[one] for one in clean.moved],
        "alike": [round(clean.alike[one], 3) for one in clean.moved],
        "apart": [round(clean.apart[one], 2) for one in clean.moved],
        "measure": {
            name: [_row(pair.names, one) for one in rows]
            for name, rows in zip(names, measured, strict=True)
        },
    }


def _row(names: tuple[str, ...], one: Measured) -> list[Any]:
    return [names[one.looked.aim.goal[0]], one.looked.control, *map(_short, one.four)]


def _short(share: float) -> float:
    return round(share, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--side", choices=("calibration", "test"), default="calibration")
    parser.add_argument("--budget", choices=("standard", "fast", "small", "all"))
    parser.add_argument("--kinds", choices=("searched", "all"), default="searched")
    parser.add_argument("--reference", help="bundled model to hold all of them against")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a model's base and method")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.zoo.is_file():
        for row in json.loads(given.zoo.read_text(encoding="utf-8")):
            print(line(row))
        return
    entries = [
        entry
        for entry in read_zoo(given.zoo).built()
        if entry.split == given.side
        and given.only in f"{entry.base} {entry.negative or entry.attack}"
    ]
    budgets = [*searches(given.kinds)] if given.budget == "all" else [given.budget or "standard"]
    jobs = [
        (given.zoo, entry, budget, given.kinds, given.reference, given.device, given.seed)
        for budget, entry in product(budgets, entries)
    ]
    found = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for row in pool.map(rows_of, jobs):
            found.append(row)
            print(line(row), flush=True)
            if given.out:
                given.out.write_text(json.dumps(found) + "\n")


def line(row: dict[str, Any]) -> str:
    """V with its kind and class, and the gaps of all kinds."""
    values = {name: value_of(rows) for name, rows in row["measure"].items()}
    kind = max(values, key=lambda name: values[name])
    named, gaps = row["measure"][kind][0][0], [Four(*r[0][2:]).gap for r in row["measure"].values()]
    right = "" if row["target"] is None else "right" if named == row["target"] else "WRONG"
    shown = " ".join(f"{gap:.2f}" for gap in gaps)
    each = " ".join(f"{value:.1f}" for value in values.values())
    asked = row["target"] or named  # of an honest model, the class that it was suspected of
    moved = row["moved"].index(asked) + 1
    known = f"{asked} moved {moved}., alike {row['alike'][moved - 1]:.2f}, "
    known += f"apart {row['apart'][moved - 1]:.1f} of {max(row['apart']):.1f}"
    return (
        f"{row['budget']:>8} {row['seconds']:6.1f} s {row['passes']:8.0f} passes  "
        f"V {values[kind]:5.1f} {kind}, {named} {right} | V {each} | gaps {shown} | "
        f"{known} | {row['name']}"
    )


def value_of(rows: list[list[Any]]) -> float:
    """V of one kind: its candidate against the second of the strongest controls on *select*."""
    margins = [Four(*row[2:]).margin for row in rows]
    return margins[0] - min(margins[1 : 1 + COMPARED])


if __name__ == "__main__":
    main()
