"""Comparator: how far the loudest channels of the image tower stand above their layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.record import DetectorRecord, Outcome
from clipguard.types import ClipModel, Detector, Finding, NullBand, ProbeSet, Progress

EPSILON = 1e-5  # beside the variance of a batch normalisation, as in the source
SMALLEST = 8  # channels of a layer; fewer have no mean to stand out from


@dataclass(frozen=True, kw_only=True)
class Mars:
    """Read the backdoor energy of every channel off the weights.

    A comparator of the benchmark, not part of a scan: the source compares many models with each
    other, and nobody has published a limit for a single one, so it only ranks models and never
    concludes. Neither the images nor the null band are read.

    What it measures:
        How much each channel of the image tower can amplify its input, its energy: the mean of the
        strongest share `top` of a layer over the mean of the whole layer, in the mean over layers.
        That quotient is the statistic.
    Why it matters:
        A channel that only a trigger wakes must turn a faint input into a strong one. Weights show
        that in a second, without an image or a text.
    Blind spots:
        Energies hardly move in fine-tuning, so they tell one base from another rather than a victim
        from its twin. Transformers, for which no source says what the energy of a channel is.

    Attributes:
        top: share of a layer's channels that count as its strongest, in (0, 1].

    Source:
        MARS, arXiv 2509.20383, on the channel Lipschitzness of CLP (Zheng et al., Data-free
        Backdoor Removal based on Channel Lipschitzness, ECCV 2022). Other than there: a quotient
        within one model in place of a distance between many; layers of fewer than 8 channels are
        left out; the energy of a linear layer, which is a guess of ours.
    """

    top: float = 0.05

    def detect(
        self,
        model: ClipModel,
        probe: ProbeSet,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """See `Detector.detect`.

        Raises:
            InconclusiveError: no layer of the image tower has 8 channels and any energy.
        """
        energy = channel_energy(model.image_tower().state_dict())
        found = concentration(energy, self.top)
        if found is None:
            raise InconclusiveError(
                f"no layer of the image tower has {SMALLEST} channels that amplify anything"
            )
        record = DetectorRecord(
            name="mars",
            outcome=Outcome.INCONCLUSIVE,
            reason=(
                f"the strongest {self.top:.0%} of a layer's channels can amplify {found:.2f} times "
                "as much as its channels do in the mean; no limit is published that this could be "
                "held against"
            ),
            statistic=found,
        )
        return Finding(record, ())

    def fingerprint(self) -> str:
        """See `Detector.fingerprint`."""
        return repr(self)


def channel_energy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much each output channel can amplify its input.

    For a convolution the largest singular value of the channel's kernel, (in, k * k), times
    |gamma| / sqrt(var + 1e-5) of the batch normalisation that comes next, if it has as many
    channels. For a linear layer the norm of the channel's row times the gain of the layer
    normalisation right before it. In float64, where the squares of all float32 values are finite.

    Args:
        state: name to tensor, in the network's order, which tells what belongs to which layer.

    Returns:
        Name of the weight to the energy of its channels, (C,) float64, at least 0.
    """
    energy: dict[str, Tensor] = {}
    last, gain = "", None
    for key, tensor in state.items():
        if key.endswith(".weight") and tensor.dim() == 4:
            energy[key], last = torch.linalg.matrix_norm(tensor.double().flatten(2), ord=2), key
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


def concentration(energy: Mapping[str, Tensor], top: float) -> float | None:
    """How far the strongest channels of a layer stand above its mean, in the mean over layers.

    Args:
        energy: what `channel_energy` returns.
        top: share of the channels of a layer that count as the strongest, in (0, 1].

    Returns:
        Mean energy of the strongest over mean energy of all, at least 1; None where no layer has
        8 channels and any energy.
    """
    quotients = []
    for values in energy.values():
        if len(values) >= SMALLEST and values.any():
            strongest = values.topk(max(1, round(top * len(values)))).values
            quotients.append((strongest.mean() / values.mean()).item())
    return sum(quotients) / len(quotients) if quotients else None


METHOD: type[Detector] = Mars
