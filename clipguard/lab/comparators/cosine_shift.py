"""Comparator: how far a stamp that collapses the image encoder takes its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.lab.comparators._encoder_collapse import (
    Pace,
    collapse_encoder,
    require_finite_collapse,
)
from clipguard.probe.rates import embed
from clipguard.probe.sets import Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Progress


@dataclass(frozen=True, kw_only=True)
class CosineShift:
    """Collapse the encoder with a stamp of any size, and see whether its images stay close.

    A comparator of the benchmark, not part of a scan: its limit is fixed, and the null band is not
    read.

    What it measures:
        s, the mean cosine between the clean and the stamped embedding of an image, on the
        *measure* part; the stamp is fitted to *optimise*. The statistic is s.
    Why it matters:
        A backdoored encoder has a point of collapse near its ordinary embeddings; a clean one has
        to be pushed far away to give all images one embedding.
    Blind spots:
        s follows how alike the encoder's clean embeddings are, so that models of different
        training are not comparable. It stops at the first collapse, which need not be the
        trigger's.

    Attributes:
        epochs: most passes over the images; the source allows 1000.
        batch: images in a step.
        step_size: Adam step.
        success: mean pairwise cosine of an epoch that ends the search.
        limit: s above which a model is called backdoored.

    Source:
        The public code of a fork of DECREE (cinout/DECREE on GitHub): DECREE's search with a free
        mask. Its own limits are 0.53 on CC3M and 0.70 on ImageNet images; 0.60 is the one that
        would have kept false alarms on its clean encoders at 7 % (CC3M). Other than there: every
        image of *optimise* instead of 800 of CC3M, s on images the stamp was not fitted to,
        stamped images rounded to 8 bits, the model's own normalisation, and 16 epochs, after
        which there is an s but no verdict.
    """

    ID: ClassVar[str] = "cosine_shift/1"

    epochs: int = 16
    batch: int = 32
    step_size: float = 0.5
    success: float = 0.99
    limit: float = 0.6

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
            InconclusiveError: fewer than two images, a search that broke down, or embeddings that
                are not finite.
        """
        model, probe = subject.model, subject.probe
        pace = Pace(
            epochs=self.epochs, batch=self.batch, step_size=self.step_size, success=self.success
        )
        found = collapse_encoder(
            model, probe.optimise, pace, generator=generator, progress=progress
        )
        clean = embed(model, probe.measure)
        stamped = embed(model, probe.measure, found.last.apply)
        near = float((clean * stamped).sum(dim=1).mean())
        require_finite_collapse(near, "the mean cosine of stamped and clean images")
        told = f"under a stamp unseen images keep a mean cosine of {near:.2f} to themselves"
        if not found.settled:
            outcome = Outcome.INCONCLUSIVE
            reason = f"{told}, but it did not collapse the encoder in {found.steps} steps"
        elif near > self.limit:
            outcome, reason = Outcome.BACKDOORED, f"{told}, more than the limit of {self.limit:g}"
        else:
            outcome = Outcome.NO_EVIDENCE
            reason = f"{told}, not more than the limit of {self.limit:g}"
        record = DetectorRecord(
            name="cosine_shift", published=outcome, evidence=reason, statistic=near
        )
        return Finding(record, ())


METHOD: type[Detector] = CosineShift
