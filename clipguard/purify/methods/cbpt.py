"""CBPT (reconstruction): class-wise prompts that read triggered images as what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.probe.sets import Subject
from clipguard.purify.contexts import Contexts
from clipguard.purify.features import cached, one_of, share_of_patches, some, sum_of
from clipguard.purify.roles import PurifiedHead, Purifier
from clipguard.search.roles import Progress, Trigger


@dataclass(frozen=True, kw_only=True)
class Cbpt:
    """Tune one context per class; both towers stay frozen.

    Three losses of the method: `classification` of clean images (cross-entropy) and of triggered
    ones; `alignment`, which pulls the reading of a triggered image to that of the clean one
    (KL, the clean one detached); `consistency`, which keeps every class embedding near its
    hand-made prompt. A fourth, `preservation`, needs no labels: on further images of anything,
    clean and triggered, the reading is pulled to what the original classifier read from the
    clean image, so that a few labelled drawings do not bend the classifier for all others. It is
    for a tower that stays as it is; on a repaired one `consistency` holds the others better.

    A fifth, `lent`, classifies embeddings that classes might have (`Features.lent`): how drawings
    of a class differ is known from all classes, and the few drawings of the target alone do not
    hold it. A sixth, `target_consistency`, keeps the target's embedding near its hand-made prompt.
    It is for a tower that has closed the trigger, where a prompt has little left to press for.

    In the first two, triggered images are read with the target's logit raised by `margin`: an
    inverted trigger is not the true one, so it must be beaten by a distance. Their classification,
    and `lent`, is the generalised cross-entropy, which is bounded: an image that its trigger has
    destroyed must not bend the classifier. Both press on the target class; `target_share` and
    `lent` press back.

    Attributes:
        steps: Adam steps; nothing is selected, the last one counts.
        learning_rate: Adam peak, decayed to zero along a cosine.
        images: images drawn in a step.
        classes: most classes that a step tunes; see `Contexts`.
        sheets: how often each labelled image is embedded with a trigger, at most. Of more triggers,
            each time a random one.
        further: unlabelled images that are embedded, at most.
        margin: added to the target's logit on triggered images, in units of a logit.
        robustness: q of the generalised cross-entropy, in (0, 1]; near 0 it is the ordinary one.
        target_share: least share of the clean half of `classification` that is of the target
            class's own images, in [0, 1), however many classes there are.
        triggered_weight: of the triggered half of `classification`.
        alignment_weight: of `alignment`.
        consistency_weight: of `consistency`, against patches.
        spread_consistency_weight: of it, against triggers that change the whole image: those press
            on the prompts of every class.
        target_consistency_weight: of `target_consistency`, against triggers that change the whole
            image; patches are left to the target's prompt.
        preservation_weight: of `preservation`; at 0 no further image is embedded.
        lent_weight: of `lent`.

    Source:
        Kong et al., Neural Antidote (CBPT), arXiv 2502.19269, reconstructed: the abstract names
        class-wise prompts and three losses; their form, `preservation`, `target_consistency` and
        every number are ours. `lent` is a plain form of Hariharan and Girshick, Low-shot Visual
        Recognition by Shrinking and Hallucinating Features, ICCV 2017. Context form: class-specific
        context of CoOp (Zhou et al., IJCV 2022). Generalised cross-entropy: Zhang and Sabuncu,
        NeurIPS 2018.
    """

    ID: ClassVar[str] = "cbpt/5"

    steps: int = 400
    learning_rate: float = 2e-2
    images: int = 400
    classes: int = 256
    sheets: int = 8
    further: int = 3000
    margin: float = 8.0
    robustness: float = 0.5
    target_share: float = 0.15
    triggered_weight: float = 3.0
    alignment_weight: float = 0.25
    consistency_weight: float = 8.0
    spread_consistency_weight: float = 8.0
    target_consistency_weight: float = 0.0
    preservation_weight: float = 1.0
    lent_weight: float = 8.0

    def purify(
        self,
        subject: Subject,
        triggers: Sequence[Trigger],
        target: int,
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
        model, probe, original = subject.model, subject.probe, subject.classes
        names = probe.class_names
        mixed = partial(one_of, triggers, generator)
        each = [trigger.apply for trigger in triggers]
        looks = each if len(each) <= self.sheets else [mixed] * self.sheets
        known = cached(model, [probe.optimise, probe.select], looks, original, progress)
        other = None
        if self.preservation_weight and probe.unlabelled is not None:
            further = some(probe.unlabelled(), self.further, generator)
            other = cached(model, [further], [mixed], original, progress)
        contexts, patches = Contexts(model, names, self.classes), share_of_patches(triggers)
        losses: dict[str, Tensor] = {}
        for step in range(self.steps):
            progress("class-wise prompts", step, self.steps)
            classes = contexts.turn(target, generator)
            heads = classes * model.logit_scale, original * model.logit_scale
            losses = self._losses(heads, known.draw(self.images, generator), target)
            lent, shown = known.lent(self.images, original, target, generator)
            if len(lent):
                losses["lent"] = generalised_cross_entropy(
                    lent @ heads[0].T, shown.to(lent.device), self.robustness
                )
            moved = 1 - (classes * original).sum(dim=1)
            losses["consistency"] = moved.mean()
            if self.target_consistency_weight and patches < 1:
                losses["target_consistency"] = moved[target]
            if other is not None:
                losses["preservation"] = _preservation(heads, other.draw(self.images, generator))
            decay = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            contexts.step(self._total(losses, patches), self.learning_rate * decay)
        final = {name: loss.item() for name, loss in losses.items()}
        return PurifiedHead(contexts.every(), contexts.values.detach(), final, method="cbpt")

    def _losses(
        self, heads: tuple[Tensor, Tensor], drawn: tuple[Tensor, Tensor, Tensor], target: int
    ) -> dict[str, Tensor]:
        head, (clean, triggered, labels) = heads[0], drawn
        truth = labels.to(head.device)
        read, stamped = clean @ head.T, (triggered @ head.T).flatten(0, 1)
        lift = functional.one_hot(torch.tensor(target, device=head.device), len(head))
        stamped = stamped + self.margin * lift
        right = self._clean_loss(read, truth, target)
        sheets = len(triggered)
        hit = generalised_cross_entropy(stamped, truth.repeat(sheets), self.robustness)
        return {
            "classification": right + self.triggered_weight * hit,
            "alignment": _divergence(stamped, read.detach().repeat(sheets, 1)),
        }

    def _clean_loss(self, logits: Tensor, labels: Tensor, target: int) -> Tensor:
        surprise = functional.cross_entropy(logits, labels, reduction="none")
        own = labels == target
        if own.all() or not own.any():
            return surprise.mean()
        share = max(self.target_share, own.float().mean().item())
        return (1 - share) * surprise[~own].mean() + share * surprise[own].mean()

    def _total(self, losses: dict[str, Tensor], patches: float) -> Tensor:
        spread = self.spread_consistency_weight
        weights = {
            "classification": 1.0,
            "alignment": self.alignment_weight,
            "consistency": spread + (self.consistency_weight - spread) * patches,
            "target_consistency": self.target_consistency_weight * (1 - patches),
            "preservation": self.preservation_weight,
            "lent": self.lent_weight,
        }
        return sum_of(losses, weights)


def generalised_cross_entropy(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """Mean of (1 - p^q) / q for the probability p of the right class; at most 1 / q.

    Args:
        logits: (N, C).
        labels: (N,).
        q: in (0, 1]; towards 0 this becomes the cross-entropy.

    Raises:
        ValueError: another q.

    Source:
        Zhang and Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018.
    """
    if not 0 < q <= 1:
        raise ValueError(f"robustness must be in (0, 1], got {q}")
    surprise = functional.cross_entropy(logits, labels, reduction="none")
    return -torch.expm1(-q * surprise).mean() / q


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


METHOD: type[Purifier] = Cbpt
