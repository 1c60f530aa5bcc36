"""Fit the shipped curves from an excess of V to probability, on a zoo's calibration side.

    python benchmarks/differential.py ZOO --out rows.json
    python benchmarks/differential.py ZOO --budget fast --out fast.json
    python tools/fit_differential.py rows.json fast.json   # needs the extra [lab]

Prints, for every budget and shape of trigger, V of honest and of planted models; for each profile
and kind of reference what is usual among the honest, the curve, and the excess at the limits of the
default policy. Writes `clipguard/assets/differential.json`, or `-o FILE`. Refuses rows of base
parents of the test side.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from clipguard.audit.profiles import PROFILES
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
BENCHMARK = runpy.run_path(str(HERE.parent / "benchmarks" / "differential.py"))
VALUE = BENCHMARK["value_of"]
KINDS_OF = {budget: names for budget, (names, _) in BENCHMARK["searches"]("searched").items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, default=asset(AGAINST_FILE))
    given = parser.parse_args()
    rows = [row for file in given.rows for row in json.loads(file.read_text(encoding="utf-8"))]
    if not {row["name"].split()[0] for row in rows} <= {*PARENTS["calibration"]}:
        parser.error("only models of the calibration side may be fitted on")
    command = " ".join(["python tools/fit_differential.py", *map(str, given.rows)])
    for budget in dict.fromkeys(row["budget"] for row in rows):
        mine = [row for row in rows if row["budget"] == budget and role_of(row) == "base"]
        for kind in mine[0]["measure"]:
            print(json.dumps({"budget": budget, "kind": kind} | compared(mine, kind)))
    standard = [row for row in rows if row["budget"] == "standard" and role_of(row) == "base"]
    print(json.dumps(apart(standard)))
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


def usual(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of V among the honest models, for each kind of trigger."""
    honest = {
        kind: [VALUE(row["measure"][kind]) for row in rows if row["kind"] != "poisoned"]
        for kind in KINDS_OF[rows[0]["budget"]]
    }
    return {
        kind: (round(mean(values), 3), round(max(LEAST, stdev(values)), 3))
        for kind, values in honest.items()
    }


def excess(row: dict[str, Any], known: Mapping[str, tuple[float, float]]) -> float:
    """The largest distance of V from what is usual, in deviations."""
    return max(
        (VALUE(row["measure"][kind]) - middle) / deviation
        for kind, (middle, deviation) in known.items()
    )


def apart(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the class that lies furthest apart does so, and whether it is the target."""
    honest = sorted(max(row["apart"]) for row in rows if row["kind"] != "poisoned")
    planted = sorted(max(row["apart"]) for row in rows if row["kind"] == "poisoned")
    right = sum(
        row["moved"][row["apart"].index(max(row["apart"]))] == row["target"]
        for row in rows
        if row["target"]
    )
    first = sum(row["moved"][0] == row["target"] for row in rows if row["target"])
    alike = [row["alike"][row["moved"].index(row["target"])] for row in rows if row["target"]]
    return {
        "apart, honest": honest[-3:],
        "apart, planted": planted[:3],
        "the target lies furthest apart": right,
        "the target moved most": first,
        "of": len(planted),
        "alike, planted": [min(alike), max(alike)],
    }


def curve(rows: list[dict[str, Any]], budget: str, role: str, command: str) -> AgainstReference:
    middles = usual(rows)
    known = [
        (row["name"].split()[0], excess(row, middles), row["kind"] == "poisoned") for row in rows
    ]
    fit = FITTED(known, command, rows[0]["zoo"])
    honest = sorted(value for _, value, poisoned in known if not poisoned)
    planted = sorted(value for _, value, poisoned in known if poisoned)
    limits = load_policy("default").backdoor
    at = {name: crossing(fit, getattr(limits, name)) for name in ("clear_score", "max_score")}
    told = {"profile": budget, "role": role, "slope": fit.slope, "intercept": fit.intercept}
    told |= {f"excess at {name}": round(value, 2) for name, value in at.items()}
    told |= {"honest excess": [round(each, 1) for each in honest[-3:]], "honest": len(honest)}
    told |= {"planted excess": [round(each, 1) for each in planted[:3]], "planted": len(planted)}
    print(json.dumps(told))
    return AgainstReference(
        **fit.model_dump(),
        usual=middles,
        detector=digest_of(PROFILES[budget].differential),
        role=role,
        families=tuple(sorted({BASES[base] for base, *_ in known})),
    )


def crossing(fit: Any, score: float) -> float:
    """The excess at which a score is reached."""
    odds = (math.log(score / (1 - score)) - fit.intercept) / fit.slope
    return math.copysign(math.expm1(abs(odds)), odds)


if __name__ == "__main__":
    main()
