"""How the models of a zoo changed from the base parent they were made from.

    python benchmarks/weights.py ZOO

Looks at the calibration side only and at no image. The numbers are those that `clipguard scan
--reference BASE` puts into the record, with the base parent that the manifest names as the
reference. Prints a Markdown table, and per base parent the AUROC of each number and the smallest
and largest concentration of honest and of poisoned models. Models that are not there yet are
counted, not looked at. For development: a limit that is chosen here must be reported on other
models.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from clipguard.detect.reference import change_concentration, reference_change_length
from torch import Tensor

from clipguard.bundled.nano import nano_network
from clipguard.checkpoint.load import load_checkpoint
from clipguard.lab.bench.record import label
from clipguard.lab.bench.scoring import auroc
from clipguard.lab.zoo.manifest import Entry, read_zoo

MAIN = "change_concentration"


def statistics(model: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, float]:
    """Of a model and of the parent it was made from; an image tower left alone counts as 0."""
    return {
        "change_length": reference_change_length(model, base) or 0.0,
        MAIN: change_concentration(model, base) or 0.0,
    }


def summary(base: str, rows: list[tuple[bool, dict[str, float]]]) -> str:
    """Of rows with the truth, poisoned or not, of one base parent."""
    truths = [truth for truth, _ in rows]
    lines = [f"{base}: {len(rows)} models, {sum(truths)} poisoned"]
    if len(set(truths)) == 2:
        areas = [f"{h} {auroc([row[h] for _, row in rows], truths):.3f}" for h in rows[0][1]]
        lines.append(f"AUROC: {', '.join(areas)}")
    for word, kind in (("honest", False), ("poisoned", True)):
        values = [row[MAIN] for truth, row in rows if truth is kind]
        if values:
            lines.append(f"{MAIN}, {word}: {min(values):.3f} to {max(values):.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("zoo", type=Path)
    given = parser.parse_args()
    found: list[tuple[Entry, dict[str, float]]] = []
    parents: dict[str, dict[str, Tensor]] = {}
    missing = 0
    for entry in read_zoo(given.zoo).entries:
        path = given.zoo / entry.path / "model.pt"
        if entry.split != "calibration" or not path.is_file():
            missing += entry.split == "calibration"
            continue
        if entry.base not in parents:
            parents[entry.base] = nano_network(entry.base).state_dict()
        found.append((entry, statistics(load_checkpoint(path).state, parents[entry.base])))
    heads = [*found[0][1]]
    print(f"| base | model | {' | '.join(heads)} |\n{'|---' * (len(heads) + 2)}|")
    for entry, row in found:
        print(f"| {entry.base} | {label(entry)} | {' | '.join(f'{row[h]:.3f}' for h in heads)} |")
    for base in parents:
        rows = [(entry.kind == "poisoned", row) for entry, row in found if entry.base == base]
        print(f"\n{summary(base, rows)}")
    if missing:
        print(f"\n{missing} models of the calibration side are not there yet")


if __name__ == "__main__":
    main()
