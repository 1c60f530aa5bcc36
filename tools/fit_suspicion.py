"""Fit the shipped curve from excess to probability, on a bench of the calibration side of a zoo.

    clipguard lab bench detect --zoo ZOO -o build/bench
    python tools/fit_suspicion.py build/bench/bench.json

Prints the curve and, for each base parent, how well a curve fitted on the others does on it; writes
`clipguard/assets/suspicion.json`, or `-o FILE`. Refuses a bench that holds models of the test side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clipguard.lab.bench.cells import DetectCell
from clipguard.lab.bench.record import HEADLINE, Bench
from clipguard.lab.scoring import auroc, brier, cross_entropy
from clipguard.outputs import write_atomic
from clipguard.resources import asset
from clipguard.suspicion import FILE, Suspicion, platt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bench", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=asset(FILE))
    given = parser.parse_args()
    record = Bench.model_validate_json(given.bench.read_bytes())
    rows = [row for row in record.rows if row.category == HEADLINE and row.method == "inversion"]
    if {row.entry["split"] for row in rows} != {"calibration"}:
        parser.error("only a bench of the calibration side may be fitted on")
    known = [
        (row.entry["base"], row.cell.excess, row.entry["kind"] == "poisoned")
        for row in rows
        if isinstance(row.cell, DetectCell) and row.cell.excess is not None
    ]
    slope, intercept = platt([x for _, x, _ in known], [truth for *_, truth in known])
    curve = Suspicion(
        command=f"python tools/fit_suspicion.py {given.bench}",
        zoo=record.zoo,
        poisoned=sum(truth for *_, truth in known),
        honest=sum(not truth for *_, truth in known),
        slope=round(slope, 6),
        intercept=round(intercept, 6),
    )
    print(curve.model_dump_json(indent=1))
    print(
        json.dumps({"excess": {"auroc": auroc([x for _, x, _ in known], [t for *_, t in known])}})
    )
    for base in sorted({base for base, *_ in known}):
        print(json.dumps({base: left_out(known, base)}))
    write_atomic(given.output, curve.model_dump_json(indent=1) + "\n")


def left_out(known: list[tuple[str, float, bool]], base: str) -> dict[str, float]:
    others = [(x, truth) for mine, x, truth in known if mine != base]
    slope, intercept = platt([x for x, _ in others], [truth for _, truth in others])
    curve = Suspicion(command="", zoo="", poisoned=1, honest=1, slope=slope, intercept=intercept)
    chances = [curve.probability(x) for mine, x, _ in known if mine == base]
    truths = [truth for mine, _, truth in known if mine == base]
    loss = cross_entropy(chances, truths).value
    return {"models": len(truths), "cross_entropy": loss, "brier": brier(chances, truths)}


if __name__ == "__main__":
    main()
