"""What weights alone tell about the models of a zoo: channel norms, and the change from the base.

    python benchmarks/weights.py ZOO

Looks at the calibration side only and at no image. Of the image tower's matrices (kernels as
output by the rest): the largest distance of a log row norm from the mean of its matrix, in standard
deviations; the largest ratio of first to second singular value; and, of the difference to the base
parent that the manifest names, the length as a share of the base's, and the share of the first
singular direction in its square, at most and in the mean over matrices. Prints a Markdown table
and the AUROC of each per base parent. For development: a statistic that is chosen here must be
reported on other models.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from clipguard.checkpoint import load_checkpoint
from clipguard.lab.bench.record import label
from clipguard.lab.scoring import auroc
from clipguard.lab.zoo_manifest import Entry, read_zoo
from clipguard.nano import nano_network

SMALLEST = 8
"""Rows and columns of a matrix, at least, for its singular values to mean something."""


def matrices(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's weights as (rows, columns), by name."""
    tower = {
        k: v.float().flatten(1) for k, v in state.items() if k.startswith("visual.") and v.dim() > 1
    }
    return {key: matrix for key, matrix in tower.items() if min(matrix.shape) >= SMALLEST}


def statistics(model: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, float]:
    """Of the matrices of a model and of the parent it was made from."""
    norms = [matrix.norm(dim=1).log() for matrix in model.values()]
    first = [torch.linalg.svdvals(matrix) for matrix in model.values()]
    changes = {key: matrix - base[key] for key, matrix in model.items()}
    moved = [torch.linalg.svdvals(change) ** 2 for change in changes.values() if change.any()]
    shares = [(squares[0] / squares.sum()).item() for squares in moved] or [0.0]
    length = sum(change.norm() ** 2 for change in changes.values())
    whole = sum(matrix.norm() ** 2 for matrix in base.values())
    return {
        "row norms": max(((n - n.mean()).abs().max() / n.std()).item() for n in norms),
        "singular ratio": max((values[0] / values[1]).item() for values in first),
        "change": float((length / whole) ** 0.5),
        "change, first direction, max": max(shares),
        "change, first direction, mean": sum(shares) / len(shares),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("zoo", type=Path)
    given = parser.parse_args()
    found: list[tuple[Entry, dict[str, float]]] = []
    parents: dict[str, dict[str, Tensor]] = {}
    for entry in read_zoo(given.zoo).entries:
        if entry.split == "calibration":
            if entry.base not in parents:
                parents[entry.base] = matrices(nano_network(entry.base).state_dict())
            model = load_checkpoint(given.zoo / entry.path / "model.pt").state
            found.append((entry, statistics(matrices(model), parents[entry.base])))
    heads = [*found[0][1]]
    print(f"| base | model | {' | '.join(heads)} |\n{'|---' * (len(heads) + 2)}|")
    for entry, row in found:
        print(f"| {entry.base} | {label(entry)} | {' | '.join(f'{row[h]:.3f}' for h in heads)} |")
    for base in parents:
        mine = [(entry.kind == "poisoned", row) for entry, row in found if entry.base == base]
        truths = [truth for truth, _ in mine]
        areas = {head: auroc([row[head] for _, row in mine], truths) for head in heads}
        print(f"AUROC, {base}, {len(mine)} models: {areas}")


if __name__ == "__main__":
    main()
