"""How the weights changed from a reference: a hint at most. No image, no prompt, nothing is run.

A state dict maps names to tensors, as `load_checkpoint` gives it. Sums are taken in float64, for a
hostile file may hold finite values whose squares are not finite in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from clipguard.checkpoint.architectures import shapes_of
from clipguard.checkpoint.load import Checkpoint
from clipguard.record import LabRange, ReferenceRecord
from clipguard.record.wording import percent

TOWER = "visual."
SMALLEST = 8
"""Rows and columns of a matrix that a spectrum takes at least."""

# Smallest and largest ever seen on the calibration side of the lab. What
# `python benchmarks/weights.py ZOO` prints of one zoo lies within; docs/benchmarks.md has both.
LAB: Final = (
    LabRange(base="nano-rn", honest=(0.111, 0.289), planted=(0.260, 0.328)),
    LabRange(base="nano-vit", honest=(0.035, 0.177), planted=(0.116, 0.266)),
)


def weights_compared(checkpoint: Checkpoint, reference: Checkpoint) -> ReferenceRecord:
    """What of the weights changed since a reference.

    Args:
        checkpoint: the checkpoint under audit.
        reference: what it is held against; where it has other tensors, no weights are compared.
    """
    record = ReferenceRecord(
        name=reference.record.name,
        sha256=reference.record.sha256,
        architecture=reference.architecture.name,
        says="the reference has another architecture, so no weights can be compared",
    )
    if shapes_of(checkpoint.state) != shapes_of(reference.state):
        return record
    changed = reference_changed_tensors(checkpoint.state, reference.state)
    in_image = sum(key.startswith(TOWER) for key in changed)
    found = change_concentration(checkpoint.state, reference.state)
    return record.model_copy(
        update={
            "tensors": len(checkpoint.state),
            "changed": len(changed),
            "image_changed": in_image,
            "length": reference_change_length(checkpoint.state, reference.state),
            "concentration": found,
            "says": _says(found, len(checkpoint.state), len(changed), in_image),
            "lab": () if found is None else LAB,
        }
    )


def change_concentration(
    model: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> float | None:
    """In how few directions the image tower moved away from its reference.

    Of the difference of each matrix that changed (kernels as output by the rest), the share of the
    first singular direction in the square; the mean over matrices. A backdoor is one more
    short cut and moves a tower in fewer directions than honest training does, for as long as the
    attacker does not add noise or train on.

    Args:
        model: name to tensor.
        reference: the same for the checkpoint it claims to come from, of the same shapes.

    Returns:
        The mean share, in (0, 1]; None where no matrix of 8 rows and columns changed.

    Raises:
        KeyError: a matrix is missing from `reference`.

    Source:
        Ours; `benchmarks/weights.py` measures it.
    """
    shares = []
    for key, matrix in _matrices(model).items():
        share = _first_share(matrix.double() - _as_matrix(reference[key]).double())
        if share is not None:
            shares.append(share)
    return sum(shares) / len(shares) if shares else None


def reference_change_length(
    model: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> float | None:
    """How far the matrices of the image tower moved, over the length of the reference's.

    Args:
        model: name to tensor.
        reference: the same for the checkpoint it claims to come from, of the same shapes.

    Returns:
        Quotient of Frobenius norms over all matrices together, at least 0; None where the
        reference holds only zeros or the tower no matrix of 8 rows and columns.

    Raises:
        KeyError: a matrix is missing from `reference`.
    """
    moved = whole = 0.0
    for key, matrix in _matrices(model).items():
        base = _as_matrix(reference[key]).double()
        moved += (matrix.double() - base).square().sum().item()
        whole += base.square().sum().item()
    return float((moved / whole) ** 0.5) if whole else None


def reference_changed_tensors(
    model: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> list[str]:
    """Names of the tensors of `model` that differ from `reference` in any value.

    Raises:
        KeyError: a tensor is missing from `reference`.
    """
    return [key for key, tensor in model.items() if not torch.equal(tensor, reference[key])]


def _matrices(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's weights as (rows, columns), those large enough for a spectrum."""
    tower = {k: _as_matrix(t) for k, t in state.items() if k.startswith(TOWER) and t.dim() > 1}
    return {key: matrix for key, matrix in tower.items() if min(matrix.shape) >= SMALLEST}


def _as_matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _first_share(matrix: Tensor) -> float | None:
    """Largest in the sum of squared singular values, (0, 1]; None for a matrix of zeros."""
    whole = matrix.square().sum().item()
    if not whole:
        return None
    # The Gram matrix of the shorter side: half the time of a singular value decomposition,
    # and exact for the largest value.
    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    return float(min(1.0, torch.linalg.eigvalsh(gram)[-1].item() / whole))


def _says(found: float | None, tensors: int, changed: int, in_image: int) -> str:
    if not changed:
        return f"all {tensors} tensors are those of the reference, so there is no change to read"
    if not in_image:
        return (
            f"the image tower is that of the reference, value by value; {changed} of {tensors} "
            "tensors changed, none of them in it"
        )
    if found is None:
        return (
            f"of the image tower only {in_image} vectors or small matrices changed, which is too "
            "little to read"
        )
    return (
        f"{percent(found)} of the square of the image tower's change lie in one direction (mean "
        "over its matrices); backdoors tend to move a model in fewer directions than honest "
        "training, but the ranges overlap, and longer training or added noise lowers the share"
    )
