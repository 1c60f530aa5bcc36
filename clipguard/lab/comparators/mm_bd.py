"""MM-BD: a class whose largest margin is out of line with those of the other classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import ClassVar

import torch
from scipy.stats import gamma
from torch import Tensor

from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.errors import InconclusiveError
from clipguard.lab.comparators._classes import (
    MIN_CLASSES,
    Steps,
    class_logits,
    class_margins,
    require_finite_classes,
    zero_shot,
)
from clipguard.model.roles import ClipModel
from clipguard.probe.sets import Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Progress

SAME = 1e-6  # spread of values that do not differ, as a share of their mean
SMALLEST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, kw_only=True)
class MaximumMargin:
    """Search the inputs that each class wins by the most, from noise, without any image.

    What it measures:
        How unlikely the largest of all classes' maximum margins is under a gamma law that is
        fitted to the others. A margin is the logit of a class minus the largest other logit.
    Why it matters:
        A backdoor teaches a model to be surer of its target than anything natural asks for. The
        search needs neither images nor a guess at the trigger's form.
    Blind spots:
        Backdoors that move images into a class without a larger margin than others have; several
        targets, of which all but one enter the law; class names that are near to each other, whose
        margins are small anyway. On CLIP the class embeddings stand in for a trained classifier
        head, which is a guess: the source was never tried on one. It compares classes of one model
        with each other, so an unusually distinct class of a clean model looks suspicious.

    Margins are of zero-shot logits: logit scale times cosine. The scale is a monotone factor: it
    changes neither the order of the classes nor p, because the gamma law has a scale of its own.
    It does set how far a step of plain SGD goes. Where the steps run out, a margin is what was
    reached and not the maximum; all classes get as many. The probe's images are never read.

    Attributes:
        steps: most steps of a class, as in the source.
        inputs: random inputs of a class, the same for every class. Source: 30; ours is what one
            core does for 100 classes of a 64-px model in minutes, and the best of fewer is lower.
        chunk: classes encoded at once; changes nothing but speed.
        step_size: SGD step, as in the source.
        momentum: of SGD, as in the source.
        settled: relative change of a class's loss that ends its search, as in the source.
        alpha: largest p that is flagged, as published.

    Source:
        Wang et al., MM-BD, IEEE S&P 2024, and its code. The gamma law here has two parameters and
        starts at 0; a class without a positive margin stays out of it and is not counted in K
        (ours).
    """

    ID: ClassVar[str] = "mm_bd/1"

    steps: int = 300
    inputs: int = 3
    chunk: int = 40
    step_size: float = 0.01
    momentum: float = 0.2
    settled: float = 1e-5
    alpha: float = 0.05

    def detect(
        self,
        subject: Subject,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """See `Detector.detect`; `null` is ignored, the rule is the published one.

        Raises:
            InconclusiveError: fewer than three classes or positive margins, a margin that is not
                finite, or margins that do not differ.
        """
        model, probe = subject.model, subject.probe
        classes = zero_shot(subject)
        names = probe.class_names
        seed = int(torch.randint(2**31, (1,), generator=generator))
        walk = Steps("maximum margin", len(classes), self.chunk, self.steps, progress)
        found = [self._climb(model, classes, names, c, seed, walk) for c in walk.chunks()]
        margin = torch.cat(found).double()
        worst = int(margin.argmax())
        reached = margin[margin > 0]
        if len(reached) < MIN_CLASSES:
            raise InconclusiveError(
                f"{len(reached)} of {len(names)} classes reach a positive margin in {self.steps} "
                f"steps, at least {MIN_CLASSES} are needed"
            )
        p_value = max(maximum_p(reached), SMALLEST)  # the far tail of the law is below any number
        flagged = p_value <= self.alpha
        reason = (
            f"{names[worst]!r} has the largest margin, {margin[worst].item():.2f} logits (median "
            f"{margin.quantile(0.5).item():.2f}): p = {p_value:.3g} under the gamma law of the "
            f"others (limit {self.alpha:g}, {len(reached)} of {len(names)} classes counted)"
        )
        return Finding(
            DetectorRecord(
                name="mm_bd",
                published=Outcome.BACKDOORED if flagged else Outcome.NO_EVIDENCE,
                evidence=reason,
                statistic=-math.log(p_value),
                target=names[worst],
            ),
            triggers=(),
        )

    def _climb(
        self,
        model: ClipModel,
        classes: Tensor,
        names: Sequence[str],
        chunk: Tensor,
        seed: int,
        walk: Steps,
    ) -> Tensor:
        """(K,) largest margin over the inputs of each class of `chunk`."""
        shape = (self.inputs, 3, model.image_size, model.image_size)
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        images = drawn.repeat(len(chunk), 1, 1, 1, 1)
        velocity = torch.zeros_like(images)
        last = torch.full((len(chunk),), math.nan)  # so that the first step is never the last
        reached = torch.zeros(len(chunk))
        moving = torch.arange(len(chunk))
        for _ in walk.of(chunk):
            leaf = images[moving].requires_grad_()
            scores = class_logits(model, leaf.flatten(0, 1).clamp(0, 1), classes)
            truth = chunk[moving].repeat_interleave(self.inputs).to(model.device)
            margin = class_margins(scores, truth).view(len(moving), -1)
            loss = -margin.detach().sum(dim=1).cpu()
            require_finite_classes(loss, [names[i] for i in chunk[moving]], "the margin of")
            (grad,) = torch.autograd.grad(-margin.sum(), leaf)
            velocity[moving] = self.momentum * velocity[moving] + grad
            images[moving] -= self.step_size * velocity[moving]
            reached[moving] = margin.detach().amax(dim=1).cpu()
            still = ~((last[moving] - loss).abs() < self.settled * last[moving].abs())
            last[moving] = loss
            moving = moving[still]
            if len(moving) == 0:
                break
        return reached


def maximum_p(values: Tensor) -> float:
    """Probability that the largest of K gamma draws is as large as the largest of `values`.

    p = 1 - CDF(max) ** K, with the likeliest law that starts at 0 for all values but the largest.

    Args:
        values: (K,) positive, K >= 3.

    Raises:
        InconclusiveError: values that do not differ, which no gamma law describes.
    """
    *others, largest = sorted(values.double().tolist())
    if pstdev(others) < SAME * fmean(others):
        raise InconclusiveError("the margins do not differ; no law can be fitted to them")
    shape, start, scale = gamma.fit(others, floc=0)
    tail = float(gamma.sf(largest, shape, start, scale))
    return -math.expm1(len(values) * math.log1p(-tail))


METHOD: type[Detector] = MaximumMargin
