"""Fine-tuning: CLIP's own loss on clean pairs, and nothing else."""

from __future__ import annotations

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
class Finetune:
    """Train both towers on clean pairs, in the hope that they forget the trigger.

    Attributes:
        steps: optimiser steps.
        learning_rate: the peak.
        batch: pairs in a step.

    Source:
        The baseline of BadCLIP (CVPR 2024) and PAR (CVPR 2026): 100,000 to 250,000 pairs, ten
        epochs, batches of 64, rates from 1e-6 to 1e-5. Adapted: the thousand labelled images of
        the probe set with captions from the lab's templates, and rates for a small model.
    """

    ID: ClassVar[str] = "finetune/2"

    steps: int = 160
    learning_rate: float = 1e-3
    batch: int = 64

    def repair(
        self, patient: Patient, *, generator: torch.Generator, progress: Progress
    ) -> Tensor | None:
        """See `Repair.repair`."""
        network = patient.network

        def loss(step: int) -> Tensor:
            images, texts, concepts = drawn(patient, self.batch, generator)
            image = image_embeddings(network, images)
            return clip_loss(image, text_embeddings(network, texts), network, concepts)

        rate = self.learning_rate
        train(network, loss, steps=self.steps, learning_rate=rate, progress=progress)
        return None


METHOD: type[Repair] = Finetune
