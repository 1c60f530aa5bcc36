"""Fit the shipped curve from excess to probability, on a bench of the calibration side of a zoo.

    clipguard lab bench detect --zoo ZOO -o build/bench
    python tools/fit_suspicion.py build/bench/bench.json   # needs the extra [lab]

Prints the curve and, for each base parent, how well a curve fitted on the others does on it; writes
`clipguard/assets/suspicion.json`, or `-o FILE`. Refuses a bench that holds models of the test side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from clipguard.detect.score import FILE, Suspicion, distance
from clipguard.files import write_atomic
from clipguard.lab.bench.cells import DetectCell
from clipguard.lab.bench.record import HEADLINE, Bench
from clipguard.lab.bench.scoring import auroc, brier, cross_entropy
from clipguard.resources import asset

Known = tuple[str, float, bool]
"""Base parent, excess, and whether it is backdoored."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bench", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=asset(FILE))
    given = parser.parse_args()
    record = Bench.model_validate_json(given.bench.read_bytes())
    rows = [row for row in record.rows if row.category == HEADLINE and row.method == "inversion"]
    if {row.entry["split"] for row in rows} != {"calibration"}:
        parser.error("only a bench of the calibration side may be fitted on")
    known: list[Known] = [
        (row.entry["base"], row.cell.excess, row.entry["kind"] == "poisoned")
        for row in rows
        if isinstance(row.cell, DetectCell) and row.cell.excess is not None
    ]
    curve = fitted(known, f"python tools/fit_suspicion.py {given.bench}", record.zoo)
    print(curve.model_dump_json(indent=1))
    _, excesses, truths = zip(*known, strict=True)
    print(json.dumps({"excess": {"auroc": auroc(excesses, truths)}}))
    bases = sorted({base for base, *_ in known})
    for base in bases if len(bases) > 1 else ():  # of one base there is no other to fit on
        print(json.dumps({base: left_out(known, base, curve)}))
    write_atomic(given.output, curve.model_dump_json(indent=1) + "\n")


def fitted(known: list[Known], command: str, zoo: str) -> Suspicion:
    """The maximum likelihood, as if one more model of either kind stood on the other side.

    So the curve is finite where both kinds are apart, and claims no more certainty than so few
    models can show. A truth of p is a backdoored model of weight p and an honest one of 1 - p.

    Source:
        Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """
    _, excesses, truths = zip(*known, strict=True)
    poisoned, honest = sum(truths), len(truths) - sum(truths)
    aims = np.where(truths, (poisoned + 1) / (poisoned + 2), 1 / (honest + 2))
    distances = np.array([[distance(excess)] for excess in excesses])
    fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(
        np.concatenate([distances, distances]),
        np.repeat([True, False], len(known)),
        sample_weight=np.concatenate([aims, 1 - aims]),
    )
    return Suspicion(
        command=command,
        zoo=zoo,
        poisoned=poisoned,
        honest=honest,
        slope=round(fit.coef_.item(), 6),
        intercept=round(fit.intercept_.item(), 6),
    )


def left_out(known: list[Known], base: str, whole: Suspicion) -> dict[str, float]:
    curve = fitted([row for row in known if row[0] != base], whole.command, whole.zoo)
    mine = [(curve.probability(x), truth) for parent, x, truth in known if parent == base]
    chances, truths = zip(*mine, strict=True)
    loss = cross_entropy(chances, truths).value
    return {"models": len(mine), "cross_entropy": loss, "brier": brier(chances, truths)}


if __name__ == "__main__":
    main()
