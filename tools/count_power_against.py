"""Count the planted backdoors that a scan against a reference fails.

    python benchmarks/against_reference.py ZOO --side test --out rows.json
    python tools/count_power_against.py rows.json

Writes `clipguard/assets/power-against.json`, or `-o FILE`, for the families and profiles in the
rows. Weak plants, and models that were held against a peer, are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from clipguard.audit.profiles import profile
from clipguard.bundled.nano import BASES
from clipguard.detect.null_band import scan_key
from clipguard.detect.power import AGAINST_FILE, Counted, Power
from clipguard.files import write_atomic
from clipguard.lab.zoo.presets import side_of
from clipguard.probe.load import Scenes, bundled_probe
from clipguard.resources import asset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=asset(AGAINST_FILE))
    given = parser.parse_args()
    rows = [
        row | {"base": row["name"].split()[0], "attack": row["name"].split()[1]}
        for row in json.loads(given.rows.read_text(encoding="utf-8"))
    ]
    rows = [row for row in rows if row["planted"] and row["reference"] == row["base"]]
    sides = {side_of(row["base"]) for row in rows}
    if len(sides) != 1:
        parser.error("expected planted victims of one side of a zoo")
    made: dict[str, dict[str, list[bool]]] = {}
    for row in rows:
        failed = made.setdefault(key_of(row), {}).setdefault(row["attack"], [])
        failed.append(row["decision"] == "fail")
    power = Power(
        command=f"python tools/count_power_against.py {given.rows}",
        zoo=rows[0]["zoo"],
        side=sides.pop(),
        pipelines={
            key: tuple(
                Counted(attack=name, failed=sum(hits), planted=len(hits))
                for name, hits in sorted(attacks.items())
            )
            for key, attacks in sorted(made.items())
        },
    )
    write_atomic(given.output, power.model_dump_json(indent=1) + "\n")
    print(power.model_dump_json(indent=1))


def key_of(row: dict[str, Any]) -> str:
    """Name of the scans that a row is one of."""
    settings = profile(row["profile"])
    probe = bundled_probe(64, Scenes(optimise=1, select=1, measure=1), seed=0)
    family = BASES[row["base"]]
    return scan_key(family, row["profile"], settings.differential, settings.scenes, probe)


if __name__ == "__main__":
    main()
