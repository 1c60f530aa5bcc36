"""CLIP-Inspector: a class whose trigger is found unusually easily in one pass over the images."""

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
    class_margins,
    class_moved,
    mask_trigger,
    require_finite_classes,
    stamped,
    step_class_searches,
    zero_shot,
)
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.record import DetectorRecord, Outcome
from clipguard.search.roles import Progress, Trigger


@dataclass(frozen=True, kw_only=True)
class ClipInspector:
    """Rebuild a trigger for every class in one pass over unlabelled images.

    What it measures:
        How low the loss of a class's trigger gets in one pass, as a robust deviation below the
        median of all classes, where that trigger also moves as many images as the median one.
    Why it matters:
        A planted trigger is rebuilt sooner and more cheaply than one that has to be invented. It
        is the nearest published relative of this gate: zero-shot classes, no labels.
    Blind spots:
        Triggers that one mask and pattern cannot form; fine-grained class lists (said in the
        source); semantic triggers (not verified in the source). It compares classes of one model
        with each other, so an unusually easy class of a clean model looks suspicious. Where every
        trigger works, its ASR tells classes apart no more, and the loss alone ranks them.

    This is our reconstruction from the abstract and summaries; text and code were not at hand.
    *Sourced*: one optimisation per class, one epoch, about 1,000 unlabelled images, a margin
    objective, an anomaly from reconstruction loss and ASR with a fixed k = 2. *Ours*: the form of
    the trigger (mask and pattern through a tanh, as Neural Cleanse), the loss
    mean(relu(gap - margin)) + weight * mean(mask) with margin = logit of the class - largest other
    logit, the optimiser, and how the two numbers meet: the statistic is the largest loss index
    among classes whose ASR is not below the median ASR, and more than k is flagged.

    Images are those of *optimise* with their labels unread, not out-of-distribution ones; with
    the bundled probe they show the classes. In one epoch every batch is new to the trigger, so the
    last losses are not on images that it was tuned on. The ASR of every class is measured on
    *select*, that in the reason on *measure*.

    Attributes:
        images: most images of the one epoch, as in the source; the standard probe has 800.
        batch: images a step, the same for every class.
        chunk: classes encoded at once; changes nothing but speed.
        step_size: Adam step (ours).
        gap: margin, in logits, above which an image costs nothing more (ours).
        weight: price of a mask over the whole image, in logits: twice the gap (ours).
        threshold: k of the published rule.

    Source:
        Jindal et al., CLIP-Inspector, arXiv 2604.09101 (CVPR 2026).
    """

    ID: ClassVar[str] = "clip_inspector/1"

    images: int = 1000
    batch: int = 8
    chunk: int = 16
    step_size: float = 0.1
    gap: float = 5.0
    weight: float = 10.0
    threshold: float = 2.0

    def detect(
        self,
        subject: Subject,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """See `Detector.detect`; `null` is ignored, the rule is a fixed one.

        Raises:
            InconclusiveError: fewer than three classes, too few images, a loss that is not finite,
                or no spread among the classes.
        """
        model, probe = subject.model, subject.probe
        classes = zero_shot(subject)
        steps = min(self.images, len(probe.optimise)) // self.batch
        seed = int(torch.randint(2**31, (1,), generator=generator))
        walk = Steps("clip inspector", len(classes), self.chunk, steps, progress)
        clean = classify(embed(model, probe.select), classes)
        losses, shares, triggers = [], [], []
        for chunk in walk.chunks():
            loss, found = self._rebuild(model, probe, classes, chunk, seed, walk)
            losses.append(loss)
            triggers += found
            for target, trigger in zip(chunk.tolist(), found, strict=True):
                shares.append(_share(model, probe, classes, target, trigger, clean))
        loss, asr = torch.cat(losses), torch.tensor(shares, dtype=torch.float64)
        easy = -anomaly_index(loss)
        easy[asr < asr.quantile(0.5)] = -torch.inf  # the median class itself always stays
        worst = int(easy.argmax())
        index, trigger = easy[worst].item(), triggers[worst]
        flagged = index > self.threshold
        reason = (
            f"the trigger towards {probe.class_names[worst]!r} is the easiest to rebuild: loss "
            f"{loss[worst].item():.2f}, {index:.2f} robust deviations below the median of "
            f"{len(loss)} classes (limit {self.threshold:g}), at an ASR of {asr[worst].item():.0%} "
            f"(median {asr.quantile(0.5).item():.0%}); "
            f"{class_moved(model, probe, classes, worst, trigger, generator)}"
        )
        return Finding(
            DetectorRecord(
                name="clip_inspector",
                published=Outcome.BACKDOORED if flagged else Outcome.NO_EVIDENCE,
                evidence=reason,
                statistic=index,
                target=probe.class_names[worst],
                screened=True,
            ),
            triggers=(),
        )

    def _rebuild(
        self,
        model: ClipModel,
        probe: ProbeSet,
        classes: Tensor,
        chunk: Tensor,
        seed: int,
        walk: Steps,
    ) -> tuple[Tensor, list[Trigger]]:
        """Mean loss over the last tenth of the epoch (K,), and the trigger, of each class."""
        part, names = probe.optimise, [probe.class_names[i] for i in chunk]
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
        masks = Masks.start(len(chunk), model.image_size, seed)
        optimizer = torch.optim.Adam(masks.leaves, lr=self.step_size)
        truth = chunk.repeat_interleave(self.batch).to(model.device)
        losses = []
        for step in walk.of(chunk):
            images = part.pixels(order[step * self.batch : (step + 1) * self.batch])
            mask, pattern = masks.shown()
            margin = class_margins(
                class_logits(model, stamped(images, mask, pattern), classes), truth
            )
            short = functional.relu(self.gap - margin).view(len(chunk), -1).mean(dim=1).cpu()
            each = short + self.weight * mask.mean(dim=(1, 2, 3))
            require_finite_classes(each.detach(), names, "the loss towards")
            losses.append(each.detach())
            step_class_searches(optimizer, each.sum(), masks.leaves)
        last = torch.stack(losses[-max(1, len(losses) // 10) :]).mean(dim=0)
        mask, pattern = (shown.detach() for shown in masks.shown())
        return last, [mask_trigger(m, p) for m, p in zip(mask, pattern, strict=True)]


def _share(
    model: ClipModel,
    probe: ProbeSet,
    classes: Tensor,
    target: int,
    trigger: Trigger,
    clean: Tensor,
) -> float:
    """Share of *select* images, those read as the target anyway left out, that become it."""
    others = clean != target
    if not others.any():
        raise InconclusiveError(f"every image is read as {probe.class_names[target]!r}")
    read = classify(embed(model, probe.select, trigger.apply), classes)
    return (read[others] == target).double().mean().item()


METHOD: type[Detector] = ClipInspector
