"""CleanCLIP: CLIP's loss, and each tower taught to tell its own augmented views apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from clipguard.lab.comparators.repairs._role import Patient, Repair
from clipguard.lab.comparators.repairs._training import (
    clip_loss,
    drawn,
    image_embeddings,
    text_embeddings,
    train,
)
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.search.roles import Progress


@dataclass(frozen=True, kw_only=True)
class CleanClip:
    """Break the tie of trigger and caption by learning each modality by itself as well.

    Attributes:
        steps: optimiser steps.
        learning_rate: the peak.
        batch: pairs in a step.
        weight: of the losses within a modality, beside the one between both.
        weight_decay: of matrices.

    Source:
        Bansal et al., CleanCLIP, ICCV 2023, from its code: AutoAugment with the policy of
        ImageNet, one of four edits of the caption at a rate of 0.1, both weights 1, batches of 64,
        ten epochs at 1e-5, 50 steps of warm-up, weight decay 0.1. Adapted: as `finetune`; of the
        edits swapping and deleting words are here, since synonyms need a dictionary; other images
        of the same class are no negatives.
    """

    ID: ClassVar[str] = "cleanclip/2"

    steps: int = 160
    learning_rate: float = 1e-3
    batch: int = 64
    weight: float = 1.0
    weight_decay: float = 0.1

    def repair(
        self, patient: Patient, *, generator: torch.Generator, progress: Progress
    ) -> Tensor | None:
        """See `Repair.repair`."""
        network = patient.network

        def loss(step: int) -> Tensor:
            images, texts, concepts = drawn(patient, self.batch, generator)
            image = image_embeddings(network, torch.cat([images, augmented(images, generator)]))
            text = text_embeddings(network, [*texts, *(edited(t, generator) for t in texts)])
            (one, other), (said, again) = image.chunk(2), text.chunk(2)
            across = clip_loss(one, said, network, concepts)
            within = clip_loss(one, other, network, concepts)
            return across + self.weight * (within + clip_loss(said, again, network, concepts)) / 2

        train(
            network,
            loss,
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            progress=progress,
        )
        return None


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of (B, 3, S, S) in [0, 1] by one policy of AutoAugment; draws from `generator` alone."""
    policy = AutoAugment(AutoAugmentPolicy.IMAGENET)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return pixels_from_bytes(torch.stack([policy(one) for one in pixels_to_bytes(images)]))


def edited(text: str, generator: torch.Generator) -> str:
    """A caption with two words swapped, or with one in ten left out; one at least stays."""
    words = text.split()
    if torch.rand((), generator=generator) < 0.5 and len(words) > 1:
        one, other = torch.randperm(len(words), generator=generator)[:2].tolist()
        words[one], words[other] = words[other], words[one]
        return " ".join(words)
    kept = torch.rand(len(words), generator=generator) >= 0.1
    return " ".join(word for word, stays in zip(words, kept.tolist(), strict=True) if stays) or text


METHOD: type[Repair] = CleanClip
