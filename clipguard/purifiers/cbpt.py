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
    """Cached embeddings of one part: the tower is frozen, so they are computed once.

    Attributes:
        clean: (N, D).
        triggered: (T, N, D), one sheet per trigger.
        labels: (N,) true classes, or the reading of the clean image where unlabelled.
    """

    clean: Tensor
    triggered: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Cbpt:
    """Tune one context per class; both towers stay frozen.

    Three losses: `classification`, the cross-entropy of clean and of triggered images;
    `alignment`, which pulls the reading of a triggered image to that of the clean one (KL, the
    clean one detached); `consistency`, which keeps every class embedding near its hand-made
    prompt, so that clean accuracy and unseen domains survive.

    Attributes:
        steps: Adam steps on all cached features.
        learning_rate: Adam peak, decayed to zero along a cosine.
        images: images drawn in a step, per trigger.
        triggered_weight: of the triggered half of `classification`.
        alignment_weight: of `alignment`.
        consistency_weight: of `consistency`.
        check_every: steps between looks at the *select* part; the best look is kept.

    Source:
        Kong et al., Neural Antidote (CBPT), arXiv 2502.19269, reconstructed: the abstract names
        class-wise prompts and three losses, their form and every number here are ours. Context
        form: class-specific context of CoOp (Zhou et al., IJCV 2022).
    """

    steps: int = 300
    learning_rate: float = 2e-3
    images: int = 400
    triggered_weight: float = 1.0
    alignment_weight: float = 1.0
    consistency_weight: float = 8.0
    check_every: int = 25

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
        optimise = _cache(model, probe.optimise, triggers, original)
        select = _cache(model, probe.select, triggers, original)
        context = model.embed_tokens(START).expand(len(names), -1, -1).clone().requires_grad_()
        optimizer = torch.optim.Adam([context], lr=self.learning_rate)
        best = (-1.0, context.detach().clone(), {"start": 0.0})
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = self.learning_rate * (
                0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            )
            classes = model.encode_context(context, names)
            index = torch.randperm(len(optimise.labels), generator=generator)[: self.images]
            losses = self._losses(optimise, index, classes, original, model.logit_scale)
            (context.grad,) = torch.autograd.grad(self._total(losses), context)
            optimizer.step()
            progress("purify", step + 1, self.steps)
            if (step + 1) % self.check_every == 0 or step + 1 == self.steps:
                value = _quality(select, model.encode_context(context.detach(), names))
                if value > best[0]:
                    final = {name: loss.item() for name, loss in losses.items()}
                    best = (value, context.detach().clone(), final)
        _, kept, final = best
        with torch.no_grad():
            classes = model.encode_context(kept, names)
        return PurifiedHead(classes, kept, final, dataclasses.asdict(self), "cbpt")

    def _losses(
        self, cache: Features, index: Tensor, classes: Tensor, original: Tensor, scale: float
    ) -> dict[str, Tensor]:
        truth = cache.labels[index].to(classes.device)
        clean = scale * cache.clean[index] @ classes.T
        triggered = (scale * cache.triggered[:, index] @ classes.T).flatten(0, 1)
        sheets = len(cache.triggered)
        wanted = clean.detach().log_softmax(dim=1).repeat(sheets, 1)
        got = triggered.log_softmax(dim=1)
        return {
            "classification": functional.cross_entropy(clean, truth)
            + self.triggered_weight * functional.cross_entropy(triggered, truth.repeat(sheets)),
            "alignment": functional.kl_div(got, wanted, reduction="batchmean", log_target=True),
            "consistency": (1 - (classes * original).sum(dim=1)).mean(),
        }

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        return (
            losses["classification"]
            + self.alignment_weight * losses["alignment"]
            + self.consistency_weight * losses["consistency"]
        )


def _cache(
    model: PromptTunable, part: ProbePart, triggers: Sequence[Trigger], classes: Tensor
) -> Features:
    clean = embed(model, part)
    triggered = torch.stack([embed(model, part, trigger.apply) for trigger in triggers])
    return Features(clean, triggered, pseudo_labels(part, classify(clean, classes)))


def _quality(cache: Features, classes: Tensor) -> float:
    """Mean accuracy on clean and on triggered images, the worst trigger counting."""
    clean = classify(cache.clean, classes) == cache.labels
    worst = min(
        (classify(sheet, classes) == cache.labels).float().mean().item()
        for sheet in cache.triggered
    )
    return (clean.float().mean().item() + worst) / 2


METHOD: type[Purifier] = Cbpt
