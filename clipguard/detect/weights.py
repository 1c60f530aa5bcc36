"""Statistics of weights alone: no image, no prompt, nothing is run.

A state dict maps names to tensors in the order of the network's layers, as `load_checkpoint` gives
it; the order tells which normalisation belongs to which layer. Sums are taken in float64, because
a hostile file may hold finite values whose squares are not finite in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TOWER = "visual."
PROJECTIONS = {
    "image": ("visual.proj", "visual.attnpool.c_proj.weight", "visual.head.proj.weight"),
    "text": ("text_projection", "text.text_projection", "text.text_projection.weight"),
}
"""Where open_clip keeps the last matrix of a tower, by kind of tower."""
SMALLEST = 8
"""Channels of a layer, or rows and columns of a matrix, that a statistic takes at least."""
EPSILON = 1e-5


def channel_energy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much each output channel of the image tower can amplify its input.

    For a convolution the largest singular value of the channel's kernel, (in, k * k), times
    |gamma| / sqrt(var + 1e-5) of the batch normalisation that comes next in the network, if it
    has as many channels; a bound on the channel's Lipschitz constant. For a linear layer the norm
    of the channel's row times the gain of the layer normalisation right before it: a GUESS of
    ours, as no source says what to do with a transformer.

    Args:
        state: name to tensor, in the network's order; names not under `visual.` are left out.

    Returns:
        Name of the weight to the energy of its channels, (C,) float64, at least 0.

    Source:
        Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness (CLP), ECCV 2022,
        without an epsilon; MARS, arXiv 2509.20383, with 1e-5. A variance below 0, which only a
        damaged file holds, counts as 0.
    """
    energy: dict[str, Tensor] = {}
    last, gain = "", None
    for key, tensor in state.items():
        if not key.startswith(TOWER):
            continue
        if key.endswith(".weight") and tensor.dim() == 4:
            energy[key], last = _largest_singular(tensor.double().flatten(2)), key
        elif key.endswith(".running_var"):
            if last and len(energy[last]) == len(tensor):
                deviation = (tensor.double().clamp(min=0) + EPSILON).sqrt()
                gamma = state.get(f"{key.removesuffix('running_var')}weight")
                one = torch.ones_like(deviation)
                energy[last] *= (one if gamma is None else gamma.double().abs()) / deviation
            last = ""  # a second normalisation belongs to no convolution
        elif key.endswith("weight") and tensor.dim() == 2:
            fits = gain is not None and len(gain) == tensor.shape[1]
            rows = tensor.double() * gain if gain is not None and fits else tensor.double()
            energy[key], gain = rows.norm(dim=1), None
        elif key.endswith(".weight") and tensor.dim() == 1:
            gain = tensor.double()  # of a layer normalisation; a batch one has no linear layer next
    return energy


def lipschitz_outliers(energy: Mapping[str, Tensor], u: float = 3.0) -> dict[str, Tensor]:
    """Channels whose energy stands out of their layer's.

    Args:
        energy: what `channel_energy` returns.
        u: standard deviations above the layer's mean beyond which a channel stands out, above 0.

    Returns:
        Name of the weight to indices of its outliers, (K,) ascending; K may be 0. Layers of
        fewer than 8 channels are left out.

    Source:
        CLP, as for `channel_energy`: u = 3, swept from 0 to 10. An honest CLIP has outliers, too.
    """
    found = {}
    for key, values in energy.items():
        if len(values) >= SMALLEST:
            mean = values.mean()
            spread = values.std().clamp(min=1e-9 * mean)  # equal channels differ by rounding only
            found[key] = (values > mean + u * spread).nonzero().flatten()
    return found


def energy_concentration(energy: Mapping[str, Tensor], top: float = 0.05) -> float | None:
    """How far the strongest channels of a layer stand above its mean, in the mean over layers.

    Args:
        energy: what `channel_energy` returns.
        top: share of the channels of a layer that count as the strongest, in (0, 1].

    Returns:
        Mean energy of the strongest over mean energy of all, at least 1; None where no layer has
        8 channels and any energy.

    Source:
        MARS, as for `channel_energy`, keeps the top 5 % of each layer and compares them between
        many models. A single checkpoint has no others, hence the quotient: a GUESS of ours.
    """
    quotients = []
    for values in energy.values():
        if len(values) >= SMALLEST and values.any():
            strongest = values.topk(max(1, round(top * len(values)))).values
            quotients.append((strongest.mean() / values.mean()).item())
    return sum(quotients) / len(quotients) if quotients else None


def projection_spectrum(state: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of the first singular direction in each projection into the joint space.

    Args:
        state: name to tensor.

    Returns:
        `image` and `text` to the share of the largest in the sum of all squared singular values,
        in (0, 1]; a tower that projects in another way, or by zeros, has no entry.
    """
    found = {}
    for tower, names in PROJECTIONS.items():
        matrices = [state[name] for name in names if name in state and state[name].dim() == 2]
        if matrices and (share := _first_share(matrices[0])) is not None:
            found[tower] = share
    return found


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


def change_length(model: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float | None:
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


def changed_tensors(model: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> list[str]:
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
    matrix = matrix.double()
    whole = matrix.square().sum().item()
    if not whole:
        return None
    return min(1.0, _largest_singular(matrix).item() ** 2 / whole)


def _largest_singular(matrices: Tensor) -> Tensor:
    """(..., R, C) float64 to the largest singular value of each, (...)."""
    # The Gram matrix of the shorter side: half the time of a singular value decomposition,
    # and exact for the largest value.
    wide = matrices.shape[-2] <= matrices.shape[-1]
    gram = matrices @ matrices.mT if wide else matrices.mT @ matrices
    largest: Tensor = torch.linalg.eigvalsh(gram)[..., -1]
    return largest.clamp(min=0).sqrt()
