"""Neural Cleanse: a class that a far smaller mask reaches than the other classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.detect.roles import Detector, Finding, NullBand
from clipguard.errors import InconclusiveError
from clipguard.lab.comparators._classes import (
    Masks,
    Steps,
    anomaly_index,
    class_logits,
    class_moved,
    mask_trigger,
    require_finite_classes,
    stamped,
    step_class_searches,
    zero_shot,
)
from clipguard.model.roles import ClipModel
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Progress


@dataclass(eq=False)
class Costs:
    """The price of a mask, one for each class of a chunk, and how it follows success.

    Attributes:
        price: (K,) factor of the mask's L1.
        wins: (K,) successes in a row.
        losses: (K,) failures in a row.
        raised: factor after `patience` successes in a row.
        lowered: divisor after `patience` failures in a row.
        patience: in steps.

    Source:
        BackdoorBench's Neural Cleanse.
    """

    price: Tensor
    wins: Tensor
    losses: Tensor
    raised: float
    lowered: float
    patience: int

    def follow(self, success: Tensor) -> None:
        """Move the price after one step: (K,) bool, whether the trigger worked."""
        self.wins = torch.where(success, self.wins + 1, 0)
        self.losses = torch.where(success, 0, self.losses + 1)
        up, down = self.wins >= self.patience, self.losses >= self.patience
        self.price = torch.where(up, self.price * self.raised, self.price)
        self.price = torch.where(down, self.price / self.lowered, self.price)
        self.wins, self.losses = self.wins.masked_fill(up, 0), self.losses.masked_fill(down, 0)


@dataclass(frozen=True, eq=False)
class Kept:
    """What the searches of K classes came to.

    Attributes:
        size: (K,) L1 of the mask, in pixels.
        works: (K,) bool, whether it ever moved enough images.
        mask: (K, 1, S, S).
        pattern: (K, 3, S, S).
    """

    size: Tensor
    works: Tensor
    mask: Tensor
    pattern: Tensor


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse:
    """Look for the smallest mask towards every class, and for a class that needs far less.

    What it measures:
        The L1 of the smallest mask that, with its pattern, moves whole batches of images into a
        class, as a robust deviation below the median of all classes.
    Why it matters:
        A planted trigger is a short cut: its class needs less of the image than any other. This is
        the detector that most others are compared with.
    Blind spots:
        Triggers that cover the whole image faintly; several targets, which move the median; class
        lists whose classes differ much in how easily they are reached, because the spread hides
        an outlier. It compares classes of one model with each other, never with clean models, so
        an unusually easy class of a clean model looks suspicious. Every class costs a search.

    The index is at most median / (1.4826 MAD): where the MAD is more than a third of the median, no
    mask is small enough to be flagged, not even an empty one. The statistic still ranks models.

    Sizes come from batches of *optimise*, as in the source. The ASR in the reason comes from
    *measure* and decides nothing. A class whose mask never worked counts with its last mask in the
    median and cannot be flagged, because such a mask triggers nothing (ours).

    Attributes:
        steps: Adam steps a class. Source: 80 epochs of 5 % of the data, 25 of them without gain to
            stop early; ours is what one core does for 100 classes of a 64-px model in minutes, and
            every class gets as many.
        images: images a step, the same for every class. An "epoch" of ours is one such batch.
        chunk: classes encoded at once; changes nothing but speed.
        step_size: Adam step, as in the source.
        momentum: Adam's first beta, as in the source.
        second_momentum: Adam's second beta, as in the source.
        first_cost: first price of a pixel of mask, as in the source.
        raised: factor of the price after `patience` successes in a row, as in the source.
        lowered: its divisor after as many failures, as in the source.
        patience: as in the source, but in batches, not in epochs.
        success: share of a batch that makes it a success, as in the source.
        threshold: index above which a class is flagged, as published.

    Source:
        Wang et al., Neural Cleanse, IEEE S&P 2019; numbers of BackdoorBench's implementation. Its
        class logit is CLIP's: logit scale times cosine with the class embedding. All classes start
        from one mask and see the same batches, where the source draws anew for each (ours).
    """

    ID: ClassVar[str] = "neural_cleanse/1"

    steps: int = 100
    images: int = 10
    chunk: int = 12
    step_size: float = 0.1
    momentum: float = 0.5
    second_momentum: float = 0.9
    first_cost: float = 1e-3
    raised: float = 2.0
    lowered: float = 2**1.5
    patience: int = 5
    success: float = 0.98
    threshold: float = 2.0

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
            InconclusiveError: fewer than three classes, a loss that is not finite, no class that
                a mask was found for, or no spread among the classes.
        """
        model, probe = subject.model, subject.probe
        classes = zero_shot(subject)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        walk = Steps("neural cleanse", len(classes), self.chunk, self.steps, progress)
        found = [self._invert(model, probe, classes, c, seed, walk) for c in walk.chunks()]
        size = torch.cat([kept.size for kept in found])
        works = torch.cat([kept.works for kept in found])
        if not works.any():
            raise InconclusiveError(f"{self.steps} steps found a mask that works for no class")
        worst = int(torch.where(works, size, torch.inf).argmin())
        masks = torch.cat([kept.mask for kept in found])
        patterns = torch.cat([kept.pattern for kept in found])
        trigger = mask_trigger(masks[worst], patterns[worst])
        index = -anomaly_index(size)[worst].item()
        flagged = index > self.threshold
        reason = (
            f"{probe.class_names[worst]!r} needs the smallest mask, {size[worst].item():.1f} of "
            f"{masks[0].numel()} pixels, {index:.2f} robust deviations below the median of "
            f"{int(works.sum())} of {len(works)} classes that a mask was found for (limit "
            f"{self.threshold:g}); {class_moved(model, probe, classes, worst, trigger, generator)}"
        )
        return Finding(
            DetectorRecord(
                name="neural_cleanse",
                published=Outcome.BACKDOORED if flagged else Outcome.NO_EVIDENCE,
                evidence=reason,
                statistic=index,
                target=probe.class_names[worst],
                screened=True,
            ),
            triggers=(),
        )

    def _invert(
        self,
        model: ClipModel,
        probe: ProbeSet,
        classes: Tensor,
        chunk: Tensor,
        seed: int,
        walk: Steps,
    ) -> Kept:
        """The smallest working mask of each class of `chunk`, or its last mask if none worked."""
        part, names = probe.optimise, [probe.class_names[i] for i in chunk]
        masks = Masks.start(len(chunk), model.image_size, seed)
        betas = (self.momentum, self.second_momentum)
        optimizer = torch.optim.Adam(masks.leaves, lr=self.step_size, betas=betas)
        batches = torch.Generator().manual_seed(seed)
        costs = self._costs(len(chunk))
        kept = _nothing(len(chunk), model.image_size)
        rows = min(self.images, len(part))
        truth = chunk.repeat_interleave(rows).to(model.device)
        for _ in walk.of(chunk):
            images = part.pixels(torch.randperm(len(part), generator=batches)[:rows])
            mask, pattern = masks.shown()
            scores = class_logits(model, stamped(images, mask, pattern), classes)
            each = functional.cross_entropy(scores, truth, reduction="none").view(len(chunk), -1)
            size = mask.sum(dim=(1, 2, 3))
            loss = each.mean(dim=1).cpu() + costs.price * size
            require_finite_classes(loss.detach(), names, "the loss towards")
            hits = (scores.argmax(dim=1) == truth).view(len(chunk), -1).cpu()
            works = hits.float().mean(dim=1) >= self.success
            kept = _keep(kept, works, size.detach(), mask.detach(), pattern.detach())
            costs.follow(works)
            step_class_searches(optimizer, loss.sum(), masks.leaves)
        return kept

    def _costs(self, count: int) -> Costs:
        return Costs(
            price=torch.full((count,), self.first_cost),
            wins=torch.zeros(count, dtype=torch.long),
            losses=torch.zeros(count, dtype=torch.long),
            raised=self.raised,
            lowered=self.lowered,
            patience=self.patience,
        )


def _nothing(count: int, side: int) -> Kept:
    return Kept(
        size=torch.full((count,), torch.inf),
        works=torch.zeros(count, dtype=torch.bool),
        mask=torch.zeros(count, 1, side, side),
        pattern=torch.zeros(count, 3, side, side),
    )


def _keep(kept: Kept, works: Tensor, size: Tensor, mask: Tensor, pattern: Tensor) -> Kept:
    """The smaller working mask; while there is none, the newest one."""
    better = torch.where(kept.works, works & (size < kept.size), True)
    pick = better[:, None, None, None]
    return Kept(
        size=torch.where(better, size, kept.size),
        works=kept.works | works,
        mask=torch.where(pick, mask, kept.mask),
        pattern=torch.where(pick, pattern, kept.pattern),
    )


METHOD: type[Detector] = NeuralCleanse
