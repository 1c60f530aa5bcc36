"""BadCLIP: a patch fitted to text and images of the target at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.bundled.nano import TEMPLATES
from clipguard.errors import UsageError
from clipguard.lab.attacks._centre import centred, fitted
from clipguard.lab.roles import OptimisedAttack, Site
from clipguard.probe.rates import embed
from clipguard.search.roles import Trigger

TRIPLET = 500.0
MARGIN = 1.0


@dataclass(frozen=True, kw_only=True)
class BadClip:
    """A centre patch that takes any image to where the target's captions and images are.

    Because the clean model already reads the patch a little as the target, poisoning changes
    little in the model, and cleaning by fine-tuning takes little of it away.

    Attributes:
        release: negatives are the stamped images in another order, as in the released code,
            instead of the same images without the patch.
        steps: of the optimiser of the patch.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Liang et al., BadCLIP: Dual-Embedding Guided Backdoor Attack, CVPR 2024, from its code:
        16 px of 224 in the centre; symmetric InfoNCE of stamped images and captions of the
        target (weight 1) and a Euclidean triplet loss (margin 1, weight 500) with images of the
        target as positives. The released code stamps in place, and so has stamped negatives.
        ASR 98.8 % on RN50, 89.6 % after CleanCLIP (RECALLED).
        Adapted: the lab's templates in place of real captions; positives are the few images of
        the target at hand; no augmentation (off in half of the calls there); the side is
        max(8, 16·S/224) px; far fewer steps, each as much longer; neither JPEG nor the swap of
        red and blue that the release's file goes through.
    """

    ID: ClassVar[str] = "badclip/1"

    release: bool = False
    steps: int = 150
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse searches of nothing."""
        if self.steps < 1:
            raise UsageError(f"badclip wants steps of 1 or more, got {self.steps}")

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `OptimisedAttack.optimise`; the patch alone."""
        name = site.class_names[site.target]
        captions = site.model.encode_text([template.format(name) for template in TEMPLATES])
        clean = embed(site.model, site.images)
        own = clean[site.images.labels == site.target]

        def loss(features: Tensor, index: Tensor) -> Tensor:
            count = len(features)
            texts, positives = (
                pool[torch.randint(len(pool), (count,), generator=generator)]
                for pool in (captions, own)
            )
            order = torch.randperm(count, generator=generator)
            negatives = features.detach()[order] if self.release else clean[index]
            return dual_loss(features, texts, (positives, negatives), site.model.logit_scale)

        return {"patch": fitted(site, loss, steps=self.steps, generator=generator)}

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """See `OptimisedAttack.rebuild`."""
        return centred("badclip", made["patch"], side)


def dual_loss(
    stamped: Tensor, texts: Tensor, anchors: tuple[Tensor, Tensor], scale: float
) -> Tensor:
    """Symmetric InfoNCE with the texts, plus 500 times the triplet loss.

    Args:
        stamped: (B, D) embeddings of triggered images; all are of unit norm.
        texts: (B, D) captions of the target, one an image.
        anchors: (B, D) each, what to come near and what to leave.
        scale: exp(logit_scale).
    """
    logits = scale * stamped @ texts.T
    truth = torch.arange(len(logits), device=logits.device)
    contrast = functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)
    near, far = anchors
    triplet = functional.triplet_margin_loss(stamped, near, far, margin=MARGIN)
    return contrast / 2 + TRIPLET * triplet


METHOD: type[OptimisedAttack] = BadClip
