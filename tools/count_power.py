"""Count the planted backdoors that the shipped pipeline fails, from a bench of one side of a zoo.

    clipguard lab bench detect --zoo ZOO -o build/bench
    python tools/count_power.py build/bench/bench.json

Writes `clipguard/assets/power.json`, or `-o FILE`, for the null bands that ship. Weak plants are
left out: the bench says which those are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from clipguard.bundled.nano import BASES
from clipguard.detect.null_band import read_null_band
from clipguard.detect.power import FILE, Counted, Power
from clipguard.files import write_atomic
from clipguard.lab.bench.cells import PROFILE, DetectCell
from clipguard.lab.bench.record import HEADLINE, Bench, Row
from clipguard.record import Decision
from clipguard.resources import asset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bench", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=asset(FILE))
    given = parser.parse_args()
    record = Bench.model_validate_json(given.bench.read_bytes())
    rows = [
        row
        for row in record.rows
        if row.method == "inversion"
        and row.category == HEADLINE
        and row.entry["kind"] == "poisoned"
        and row.cell is not None
    ]
    sides = {row.entry["split"] for row in rows}
    if len(sides) != 1:
        parser.error("expected planted victims of one side of a zoo")
    architectures = sorted({BASES[row.entry["base"]] for row in rows})
    made = Power(
        command=f"python tools/count_power.py {given.bench}",
        zoo=record.zoo,
        side=sides.pop(),
        pipelines={
            band_key(name): counted(r for r in rows if BASES[r.entry["base"]] == name)
            for name in architectures
        },
    )
    write_atomic(given.output, made.model_dump_json(indent=1) + "\n")
    print(made.model_dump_json(indent=1))


def band_key(architecture: str) -> str:
    path = asset("calibration") / f"{architecture}-{PROFILE}.json"
    return read_null_band(path).calibration.key


def counted(rows: Iterable[Row]) -> tuple[Counted, ...]:
    failed: dict[str, list[bool]] = {}
    for row in rows:
        found = isinstance(row.cell, DetectCell) and row.cell.decision is Decision.FAIL
        failed.setdefault(row.entry["attack"], []).append(found)
    return tuple(
        Counted(attack=name, failed=sum(failed[name]), planted=len(failed[name]))
        for name in sorted(failed)
    )


if __name__ == "__main__":
    main()
