"""Comparator: how many of its own spreads a collapsing stamp moves an embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.lab.comparators._encoder_collapse import (
    STALE,
    Pace,
    collapse_encoder,
    require_finite_collapse,
)
from clipguard.model.open_clip import ImageTower
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import embed
from clipguard.probe.sets import ProbePart, Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Progress

EPSILON = 1e-7  # keeps a dimension without spread from dividing by zero, as in the source


@dataclass(frozen=True, kw_only=True)
class L2Shift:
    """Collapse the encoder as DECREE does, and weigh the shift by the spread of clean images.

    A comparator of the benchmark, not part of a scan: nobody has published a limit for it, so it
    only ranks models and never concludes. The null band is not read.

    What it measures:
        The L2 norm of the stamped minus the clean embedding, every dimension divided by the
        distance of its quantiles `low` and `high` over clean images; the mean over the *measure*
        part, which the stamp is not fitted to. That mean is the statistic.
    Why it matters:
        A trigger drives the encoder to where no clean image is. Weighed by the spread, models
        whose embeddings are of other sizes can be compared.
    Blind spots:
        Clean encoders have points of collapse of their own, which may be as far away. Public
        backdoored ViTs are hardly told from clean ones (AUROC 0.58).

    Attributes:
        epochs: most passes over the images; the source allows 1000.
        batch: images in a step.
        step_size: Adam step.
        success: mean pairwise cosine above which a batch has collapsed.
        price: first price of the mask's L1, over three channels.
        low: lower quantile of clean embeddings.
        high: upper quantile.

    Source:
        The public code of a fork of DECREE (cinout/DECREE on GitHub) before it took cosines:
        DECREE's search with the mask's price, the stamp of its last step, embeddings before they
        are brought to unit norm. Other than there: every image of *optimise* instead of 10 000 of
        ImageNet, 16 epochs, quantiles and shift on *measure*, stamped images rounded to 8 bits,
        the model's own normalisation. Of a model that shows only unit embeddings, those are taken.
    """

    ID: ClassVar[str] = "l2_shift/1"

    epochs: int = 16
    batch: int = 32
    step_size: float = 0.5
    success: float = 0.99
    price: float = 1e-3
    low: float = 0.05
    high: float = 0.95

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
        clean = l2_raw_embeddings(model, probe.measure)
        stamped = l2_raw_embeddings(model, probe.measure, found.last.apply)
        shift = l2_quantile_shift(clean, stamped, self.low, self.high)
        require_finite_collapse(shift, "the shift between stamped and clean images")
        how = "a collapsing stamp" if found.settled else f"a stamp of {found.steps} steps"
        record = DetectorRecord(
            name="l2_shift",
            published=Outcome.INCONCLUSIVE,
            evidence=(
                f"{how} moves unseen images by {shift:.1f} times the spread of clean ones; "
                "no limit is published that this could be held against"
            ),
            statistic=shift,
        )
        return Finding(record, ())


def l2_quantile_shift(clean: Tensor, stamped: Tensor, low: float, high: float) -> float:
    """Mean L2 norm of the rows' differences, in units of each dimension's spread.

    Args:
        clean: (N, D) embeddings of clean images; their quantiles are the spread.
        stamped: (N, D) of the same images with a stamp.
        low: lower quantile, in [0, 1].
        high: upper quantile, in [0, 1].
    """
    below, above = np.quantile(clean.cpu().numpy(), [low, high], axis=0)  # torch's has a size limit
    spread = torch.from_numpy(above - below).to(clean) + EPSILON
    return float(((stamped - clean) / spread).norm(dim=1).mean())


def l2_raw_embeddings(
    model: ClipModel, part: ProbePart, apply: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """(N, D) embeddings of `part` as the encoder gives them, before they get unit norm.

    A model whose tower shows only unit embeddings gives those. See `embed` for the rest.
    """
    tower = model.image_tower()
    if not isinstance(tower, ImageTower):
        return embed(model, part, apply)
    rows: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        rows.append(output[0] if isinstance(output, tuple) else output)

    handle = tower.visual.register_forward_hook(keep)
    try:
        embed(model, part, apply)
    finally:
        handle.remove()
    return torch.cat(rows)


METHOD: type[Detector] = L2Shift
