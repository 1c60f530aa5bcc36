"""Fit the shipped curves from V to probability, on models of the calibration side of a zoo.

    python benchmarks/differential.py ZOO --budget all --kinds all --out rows.json
    python tools/fit_differential.py rows.json   # needs the extra [lab]

Prints, for every budget and shape of trigger, V of honest and of planted models, and what comes of
them when V is taken over its deviation in each shape; for both profiles and both kinds of
reference the curve, and V at the limits of the default policy. Writes
`clipguard/assets/differential.json`, or `-o FILE`. Refuses rows of base parents of the test side.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from clipguard.audit.profiles import PROFILES, SEARCHED
from clipguard.bundled.nano import BASES
from clipguard.detect.score import AGAINST_FILE, AgainstReference, AgainstReferences
from clipguard.files import write_atomic
from clipguard.lab.zoo.presets import PARENTS
from clipguard.policy.document import load_policy
from clipguard.registry import digest_of
from clipguard.resources import asset

LEAST = 0.8
"""A smaller deviation among a dozen models is luck."""
HERE = Path(__file__).resolve().parent
FITTED = runpy.run_path(str(HERE / "fit_suspicion.py"))["fitted"]
VALUE = runpy.run_path(str(HERE.parent / "benchmarks" / "differential.py"))["value_of"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=asset(AGAINST_FILE))
    given = parser.parse_args()
    rows = json.loads(given.rows.read_text(encoding="utf-8"))
    if not {row["name"].split()[0] for row in rows} <= {*PARENTS["calibration"]}:
        parser.error("only models of the calibration side may be fitted on")
    command = f"python tools/fit_differential.py {given.rows}"
    for budget in dict.fromkeys(row["budget"] for row in rows):
        mine = [row for row in rows if row["budget"] == budget and role_of(row) == "base"]
        for kind in mine[0]["measure"]:
            print(json.dumps({"budget": budget, "kind": kind} | compared(mine, kind)))
        if {*SEARCHED} <= {*mine[0]["measure"]}:
            print(json.dumps({"budget": budget, "over deviations": over_deviations(mine)}))
    curves = []
    for budget in PROFILES:
        for role in ("base", "peer"):
            mine = [row for row in rows if row["budget"] == budget and role_of(row) == role]
            if mine:
                curves.append(curve(mine, budget, role, command))
    text = AgainstReferences(curves=tuple(curves)).model_dump_json(indent=1)
    write_atomic(given.output, text + "\n")


def role_of(row: dict[str, Any]) -> str:
    return "base" if row["reference"] == row["name"].split()[0] else "peer"


def compared(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """V of one kind on honest and planted models, and how often its class is the target."""
    values = {True: list[float](), False: list[float]()}
    for row in rows:
        values[row["kind"] == "poisoned"].append(VALUE(row["measure"][kind]))
    right = sum(row["measure"][kind][0][0] == row["target"] for row in rows if row["target"])
    return {
        "honest": [round(value, 1) for value in sorted(values[False])[-3:]],
        "deviation": round(stdev(values[False]), 2),
        "planted": [round(value, 1) for value in sorted(values[True])],
        "right": right,
    }


def over_deviations(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The largest of honest and the smallest of planted models, each shape in its own unit."""
    honest = {
        kind: [VALUE(row["measure"][kind]) for row in rows if row["kind"] != "poisoned"]
        for kind in SEARCHED
    }
    found: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        units = [
            (VALUE(row["measure"][kind]) - mean(values)) / max(LEAST, stdev(values))
            for kind, values in honest.items()
        ]
        found[row["kind"] == "poisoned"].append(max(units))
    return {"honest": round(max(found[False]), 1), "planted": round(min(found[True]), 1)}


def curve(rows: list[dict[str, Any]], budget: str, role: str, command: str) -> AgainstReference:
    known = [(row["name"].split()[0], highest(row), row["kind"] == "poisoned") for row in rows]
    fit = FITTED(known, command, rows[0]["zoo"])
    honest = sorted(value for _, value, poisoned in known if not poisoned)
    planted = sorted(value for _, value, poisoned in known if poisoned)
    limits = load_policy("default").backdoor
    at = {name: crossing(fit, getattr(limits, name)) for name in ("clear_score", "max_score")}
    told = {"profile": budget, "role": role, "slope": fit.slope, "intercept": fit.intercept}
    told |= {f"V at {name}": round(value, 2) for name, value in at.items()}
    told |= {"honest V": [round(honest[0], 1), round(honest[-1], 1)], "honest": len(honest)}
    told |= {"planted V": [round(planted[0], 1), round(planted[-1], 1)], "planted": len(planted)}
    print(json.dumps(told))
    return AgainstReference(
        **fit.model_dump(),
        detector=digest_of(PROFILES[budget].differential),
        role=role,
        families=tuple(sorted({BASES[base] for base, *_ in known})),
    )


def highest(row: dict[str, Any]) -> float:
    """V over the kinds that the profiles search."""
    return max(VALUE(row["measure"][name]) for name in SEARCHED)


def crossing(fit: Any, score: float) -> float:
    """The V at which a score is reached."""
    return math.expm1((math.log(score / (1 - score)) - fit.intercept) / fit.slope)


if __name__ == "__main__":
    main()
