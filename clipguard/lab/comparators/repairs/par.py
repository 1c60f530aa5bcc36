"""PAR: push the embeddings away from where the poisoning left them, and recover on clean pairs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.lab.comparators.repairs._role import Patient, Repair
from clipguard.lab.comparators.repairs._training import (
    clip_loss,
    drawn,
    image_embeddings,
    text_embeddings,
    train,
)
from clipguard.search.roles import Progress


@dataclass(frozen=True, kw_only=True)
class Par:
    """Leave the poisoned embeddings as far as `distance`, while CLIP's loss keeps the pairs.

    Attributes:
        steps: optimiser steps.
        learning_rate: the peak.
        batch: pairs in a step.
        distance: squared distance from the poisoned embedding beyond which nothing pushes, in
            [0, 4].
        weight_decay: of matrices.

    Source:
        Singh et al., Perturb and Recover, CVPR 2026, from its code: distance 2.15 in both
        modalities, the image with positive noise (deviation 0.2) in half of the cases and with a
        square of 0.5 to 1 % erased in half; AdamW, rates from 3e-5, ten epochs of 250,000 pairs.
        Adapted: as `finetune`; noise and erasing are drawn for a batch, not for an image.
    """

    ID: ClassVar[str] = "par/2"

    steps: int = 160
    learning_rate: float = 1e-3
    batch: int = 64
    distance: float = 2.15
    weight_decay: float = 1e-4

    def repair(
        self, patient: Patient, *, generator: torch.Generator, progress: Progress
    ) -> Tensor | None:
        """See `Repair.repair`."""
        network, poisoned = patient.network, copy.deepcopy(patient.network)

        def loss(step: int) -> Tensor:
            images, texts, concepts = drawn(patient, self.batch, generator)
            images = roughened(images, generator)
            image, text = image_embeddings(network, images), text_embeddings(network, texts)
            with torch.no_grad():
                old = image_embeddings(poisoned, images), text_embeddings(poisoned, texts)
            pairs = zip((image, text), old, strict=True)
            apart = [((new - was) ** 2).sum(dim=1).mean() for new, was in pairs]
            pushed = [one for one in apart if one.item() <= self.distance]
            recovered = clip_loss(image, text, network, concepts)
            return recovered - torch.stack(pushed).sum() / 2 if pushed else recovered

        train(
            network,
            loss,
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            progress=progress,
        )
        return None


def roughened(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, S, S) in [0, 1] to the same: half of the calls with noise, half with a hole."""
    made, side = images, images.shape[-1]
    if torch.rand((), generator=generator) < 0.5:
        noise = 0.2 * torch.randn(images.shape, generator=generator)
        made = (made + noise.clamp(0, 1)).clamp(0, 1)
    if torch.rand((), generator=generator) < 0.5:
        share = 0.005 + 0.005 * torch.rand((), generator=generator).item()
        length = max(1, round(side * share**0.5))
        top, left = torch.randint(side - length + 1, (2,), generator=generator).tolist()
        made = made.clone()
        hole = made[:, :, top : top + length, left : left + length]
        hole.copy_(images.mean(dim=(0, 2, 3))[:, None, None].expand_as(hole[0]))
    return made


METHOD: type[Repair] = Par
