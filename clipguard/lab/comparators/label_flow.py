"""Label flow: where an adversarial patch without a target sends the readings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.errors import InconclusiveError
from clipguard.lab.comparators._classes import MIN_STEPS, step_class_searches, zero_shot
from clipguard.model.pixels import pasted
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import ProbePart, Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Progress


@dataclass(frozen=True, kw_only=True)
class LabelFlow:
    """Paste one adversarial patch on all images and look where their readings go.

    A comparator of the benchmark, not part of a scan: the source names a class and no limit, so
    this only ranks models and never concludes. The null band is not read.

    What it measures:
        The largest growth of a class's share of all readings under the patch, in percentage points.
        That is the statistic, and the class is the one that is named.
    Why it matters:
        A patch that pushes images away from what they show ends on a backdoored model where the
        trigger leads, says the source, so one search does for all classes.
    Blind spots:
        Every model sends its adversarial patches somewhere. A trigger that a patch in one corner
        cannot imitate. Class lists without the target.

    *Sourced*: an opaque square of 3 % of the image, near the lower right corner; shares of classes
    before and after. *Ours*: how the patch is made, which is not in the public code: Adam on one
    pattern for all *optimise* images, which pushes each embedding away from its clean one, that of
    its own image. The flow is that of *measure* images, which the patch was not made on.

    Attributes:
        steps: Adam steps.
        batch: images in a step.
        step_size: Adam step.
        area: of the square, as a share of the image.
        margin: from the corner, as a share of the side.

    Source:
        Sun et al., InverTune, arXiv 2506.12411, first part of its public code.
    """

    ID: ClassVar[str] = "label_flow/1"

    steps: int = 300
    batch: int = 32
    step_size: float = 0.02
    area: float = 0.03
    margin: float = 1 / 16

    def detect(
        self,
        subject: Subject,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """See `Detector.detect`.

        Raises:
            InconclusiveError: fewer than three classes, too few steps, or a likeness that is not
                finite.
            RefusedError: the image tower overflows.
        """
        model, probe, names = subject.model, subject.probe, subject.probe.class_names
        classes = zero_shot(subject)
        patch = self._adversarial(model, probe.optimise, generator, progress)
        part, count = probe.measure, len(names)
        before, after = (
            _shares(classify(embed(model, part, apply), classes), count)
            for apply in (None, lambda images: self._stamped(images, patch))
        )
        flow = after - before
        worst = int(flow.argmax())
        grows = flow[worst].item() > 0
        seen = (
            f"{names[worst]!r} grows from {before[worst]:.1%} to {after[worst]:.1%} of all readings"
        )
        record = DetectorRecord(
            name="label_flow",
            published=Outcome.INCONCLUSIVE,
            evidence=(
                f"under one adversarial patch {seen if grows else 'no class grows'}; no limit is "
                "published that this could be held against"
            ),
            statistic=100 * flow[worst].item(),
            target=names[worst] if grows else None,
        )
        return Finding(record, ())

    def _adversarial(
        self,
        model: ClipModel,
        part: ProbePart,
        generator: torch.Generator,
        progress: Progress,
    ) -> Tensor:
        """A square (3, L, L) in [0, 1] that pushes images away from their clean embeddings."""
        if self.steps < MIN_STEPS:
            raise InconclusiveError(
                f"label flow: {self.steps} steps, at least {MIN_STEPS} are needed"
            )
        side = max(1, math.floor(math.sqrt(self.area) * model.image_size))
        patch = torch.rand(3, side, side, generator=generator).requires_grad_()
        optimizer = torch.optim.Adam([patch], lr=self.step_size)
        wanted = embed(model, part)
        for step in range(self.steps):
            progress("label flow", step, self.steps)
            index = torch.randint(len(part), (self.batch,), generator=generator)
            shown = self._stamped(part.pixels(index), patch)
            rows = model.encode_image(shown.to(model.device))
            like = (rows * wanted[index]).sum(dim=1).mean()
            if not like.isfinite():
                raise InconclusiveError("images under the patch have no finite embedding")
            step_class_searches(optimizer, like, [patch])
            with torch.no_grad():
                patch.clamp_(0, 1)
        return patch.detach()

    def _stamped(self, images: Tensor, patch: Tensor) -> Tensor:
        """The images (B, 3, S, S) with the square at its place."""
        side = images.shape[-1]
        corner = side - patch.shape[-1] - round(self.margin * side)
        return pasted(images, patch, corner, corner)


def _shares(read: Tensor, count: int) -> Tensor:
    """Share of the readings (N,) that each of `count` classes has, (C,)."""
    return torch.bincount(read.cpu(), minlength=count).double() / len(read)


METHOD: type[Detector] = LabelFlow
