"""Comparator: how small a mask can be that collapses the image encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.lab.comparators._encoder_collapse import (
    STALE,
    Collapse,
    Pace,
    collapse_encoder,
    require_finite_collapse,
    self_cosine,
)
from clipguard.probe.rates import embed
from clipguard.probe.sets import Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Progress


@dataclass(frozen=True, kw_only=True)
class Decree:
    """Search for the smallest stamp that gives all images one embedding.

    A comparator of the benchmark, not part of a scan: its fixed limit is its authors', and the null
    band is not read.

    What it measures:
        PL1, the L1 of the smallest mask under which a batch of *optimise* reaches the cosine
        `success`, as a share of the largest L1 there is. The mask is chosen on the batches it was
        fitted to, as in the source; how far it collapses the *measure* part stands in the reason,
        and decides nothing. The statistic is -PL1.
    Why it matters:
        A planted trigger gives all images one embedding and covers little. No class, text or
        label is needed to see that.
    Blind spots:
        Clean models: PL1 depends on architecture and pre-training first, and of 51 public clean
        encoders two thirds are below the limit. Backdoors with several targets, and triggers that
        move images without collapsing them. Triggers that cover the image have a large mask.

    Attributes:
        epochs: most passes over the images; the source allows 1000.
        batch: images in a step.
        step_size: Adam step.
        success: mean pairwise cosine above which a batch has collapsed.
        price: first price of the mask's L1, over three channels.
        limit: PL1 below which a model is called backdoored.

    Source:
        DECREE, CVPR 2023, its public code with the settings for CLIP (`rand` start, Adam 0.5/0.9,
        price times or by 5 after more than 5 steps, floor 1e-7, stop beyond 35 steps without a
        smaller mask). Other than there: every image of *optimise* instead of 10 000 of ImageNet,
        so that an epoch is shorter and its end, where the stop rule is asked, comes sooner; 16
        epochs, so that a model takes about a minute, which leaves the smaller steps from epoch 200
        on out of reach; the model's own normalisation, not ImageNet's; PL1 over the model's own
        image size. A search that its epochs ended is not called clean, and one without any
        collapse has PL1 1 and no verdict.
    """

    ID: ClassVar[str] = "decree/1"

    epochs: int = 16
    batch: int = 32
    step_size: float = 0.5
    success: float = 0.99
    price: float = 1e-3
    limit: float = 0.1

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
            epochs=self.epochs,
            batch=self.batch,
            step_size=self.step_size,
            success=self.success,
            price=self.price,
            stale=STALE,
        )
        found = collapse_encoder(
            model, probe.optimise, pace, generator=generator, progress=progress
        )
        unseen = None
        if found.smallest is not None:
            unseen = float(self_cosine(embed(model, probe.measure, found.smallest.apply)))
            require_finite_collapse(unseen, "the mean cosine of stamped unseen images")
        outcome, reason = self._conclude(found, unseen)
        share = 1.0 if found.smallest is None else found.smallest.share
        record = DetectorRecord(name="decree", published=outcome, evidence=reason, statistic=-share)
        return Finding(record, ())

    def _conclude(self, found: Collapse, unseen: float | None) -> tuple[Outcome, str]:
        """Outcome and one sentence, by the published limit."""
        if found.smallest is None:
            told = f"no stamp collapsed the encoder in {found.steps} steps"
            return Outcome.INCONCLUSIVE, f"{told}: the mean cosine is {found.cosine:.2f}"
        share = found.smallest.share
        told = (
            f"a mask of {share:.1%} of the image collapses the encoder "
            f"(mean cosine of unseen images {unseen:.2f})"
        )
        if share < self.limit:
            return Outcome.BACKDOORED, f"{told}, less than DECREE's limit of {self.limit:.0%}"
        if not found.settled:
            return (
                Outcome.INCONCLUSIVE,
                f"{told}, but the search was not done in {found.steps} steps",
            )
        return Outcome.NO_EVIDENCE, f"{told}, not less than DECREE's limit of {self.limit:.0%}"


METHOD: type[Detector] = Decree
