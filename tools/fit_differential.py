"""Fit the shipped curves from V to probability, on models of the calibration side of a zoo.

    python benchmarks/differential.py ZOO --budget all --kinds all --out rows.json
    python tools/fit_differential.py rows.json   # needs the extra [lab]

Prints, for both profiles and both kinds of reference, the curve, V at the limits of the default
policy, and the models on either side; writes `clipguard/assets/differential.json`, or `-o FILE`.
Refuses rows of base parents of the test side.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
from pathlib import Path
from typing import Any

from clipguard.audit.profiles import PROFILES, SEARCHED
from clipguard.bundled.nano import BASES
from clipguard.detect.score import AGAINST_FILE, AgainstReference, AgainstReferences
from clipguard.files import write_atomic
from clipguard.lab.zoo.presets import PARENTS
from clipguard.policy.document import load_policy
from clipguard.registry import digest_of
from clipguard.resources import asset

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
