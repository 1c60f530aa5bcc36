"""CBPT (reconstruction): class-wise prompts that read triggered images as what they show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.measure import classify, embed, pseudo_labels
from clipguard.prompts import class_embeddings
from clipguard.types import (
    ProbePart,
    ProbeSet,
    Progress,
    PromptTunable,
    PurifiedHead,
    Purifier,
    Trigger,
)

START = "a photo of a"


@dataclass(frozen=True, eq=False)
class Features:
    """Cached embeddings: the tower is frozen, so every image is encoded once.

    Attributes:
        clean: (N, D).
        triggered: (T, N, D), one sheet per trigger.
        labels: (N,) true classes, or the reading of the clean image where unlabelled.
        weights: (N,) chance of being drawn; every drawing has the same.
    """

    clean: Tensor
    triggered: Tensor
    labels: Tensor
    weights: Tensor

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Clean (B, D), triggered (T, B, D) and labels (B,) of at most `count` images."""
        count = min(count, len(self.labels))
        index = torch.multinomial(self.weights, count, generator=generator)
        return self.clean[index], self.triggered[:, index], self.labels[index]


@dataclass(frozen=True, kw_only=True)
class Cbpt:
    """Tune one context per class; both towers stay frozen.

    Three losses of the method: `classification`, the cross-entropy of clean and of triggered
    images; `alignment`, which pulls the reading of a triggered image to that of the clean one
    (KL, the clean one detached); `consistency`, which keeps every class embedding near its
    hand-made prompt. A fourth, `preservation`, needs no labels: on further images of anything,
    clean and triggered, the reading is pulled to what the original classifier read from the
    clean image, so that a few labelled drawings do not bend the classifier for all others.

    Attributes:
        steps: Adam steps; nothing is selected, the last one counts.
        learning_rate: Adam peak, decayed to zero along a cosine.
        images: images drawn in a step.
        triggered_weight: of the triggered half of `classification`.
        alignment_weight: of `alignment`.
        consistency_weight: of `consistency`.
        preservation_weight: of `preservation`.

    Source:
        Kong et al., Neural Antidote (CBPT), arXiv 2502.19269, reconstructed: the abstract names
        class-wise prompts and three losses; their form, `preservation` and every number are
        ours. Context form: class-specific context of CoOp (Zhou et al., IJCV 2022).
    """

    steps: int = 400
    learning_rate: float = 2e-3
    images: int = 400
    triggered_weight: float = 0.75
    alignment_weight: float = 0.75
    consistency_weight: float = 12.0
    preservation_weight: float = 1.0

    def purify(
        self,
        model: PromptTunable,
        probe: ProbeSet,
        triggers: Sequence[Trigger],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> PurifiedHead:
        """See `Purifier.purify`.

        Raises:
            ValueError: no trigger to purify against.
        """
        if not triggers:
            raise ValueError("purification needs at least one inverted trigger")
        names = probe.class_names
        original = class_embeddings(model, names, probe.templates)
        known = _cache(model, [probe.optimise, probe.select], triggers, original)
        other = None
        if probe.unlabelled is not None:
            other = _cache(model, [probe.unlabelled], triggers, original)
        context = model.embed_tokens(START).expand(len(names), -1, -1).clone().requires_grad_()
        optimizer = torch.optim.Adam([context], lr=self.learning_rate)
        losses: dict[str, Tensor] = {}
        for step in range(self.steps):
            progress("class-wise prompts", step, self.steps)
            optimizer.param_groups[0]["lr"] = self.learning_rate * (
                0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            )
            classes = model.encode_context(context, names)
            heads = classes * model.logit_scale, original * model.logit_scale
            losses = self._losses(heads, known.draw(self.images, generator))
            losses["consistency"] = (1 - (classes * original).sum(dim=1)).mean()
            if other is not None:
                losses["preservation"] = _preservation(heads, other.draw(self.images, generator))
            # Asked for by name: the model's own .grad must stay empty.
            (context.grad,) = torch.autograd.grad(self._total(losses), context)
            optimizer.step()
        with torch.no_grad():
            classes = model.encode_context(context, names)
        final = {name: loss.item() for name, loss in losses.items()}
        return PurifiedHead(
            classes, context.detach(), final, dataclasses.asdict(self), method="cbpt"
        )

    def _losses(
        self, heads: tuple[Tensor, Tensor], drawn: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        head, (clean, triggered, labels) = heads[0], drawn
        truth = labels.to(head.device)
        read, stamped = clean @ head.T, (triggered @ head.T).flatten(0, 1)
        sheets = len(triggered)
        hit = functional.cross_entropy(stamped, truth.repeat(sheets))
        return {
            "classification": functional.cross_entropy(read, truth) + self.triggered_weight * hit,
            "alignment": _divergence(stamped, read.detach().repeat(sheets, 1)),
        }

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        weights = {
            "classification": 1.0,
            "alignment": self.alignment_weight,
            "consistency": self.consistency_weight,
            "preservation": self.preservation_weight,
        }
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _preservation(heads: tuple[Tensor, Tensor], drawn: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """How far the tuned readings are from the original reading of the clean image."""
    (head, original), (clean, triggered, _) = heads, drawn
    wanted = clean @ original.T
    stamped = (triggered @ head.T).flatten(0, 1)
    moved = _divergence(stamped, wanted.repeat(len(triggered), 1))
    return moved + _divergence(clean @ head.T, wanted)


def _divergence(got: Tensor, wanted: Tensor) -> Tensor:
    """KL(wanted || got) of two sets of logits (N, C), mean over N."""
    return functional.kl_div(
        got.log_softmax(dim=1), wanted.log_softmax(dim=1), reduction="batchmean", log_target=True
    )


def _cache(
    model: PromptTunable, parts: Sequence[ProbePart], triggers: Sequence[Trigger], classes: Tensor
) -> Features:
    clean = [embed(model, part) for part in parts]
    sheets = [torch.cat([embed(model, part, t.apply) for part in parts]) for t in triggers]
    labels = [
        pseudo_labels(part, classify(rows, classes))
        for part, rows in zip(parts, clean, strict=True)
    ]
    drawings = torch.cat([part.drawings for part in parts])
    _, index, count = torch.unique(drawings, return_inverse=True, return_counts=True)
    return Features(
        torch.cat(clean), torch.stack(sheets), torch.cat(labels), 1 / count[index].float()
    )


METHOD: type[Purifier] = Cbpt
