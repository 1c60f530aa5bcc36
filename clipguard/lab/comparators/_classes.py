"""What detectors that look at every class in turn have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.model.pixels import stamp
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import attack_rate, classify, embed
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.search.roles import Progress, Trigger

MAD_TO_SIGMA = 1.4826  # makes the MAD of a normal sample estimate its standard deviation
MIN_CLASSES = 3
MIN_STEPS = 20  # as for every search, see `clipguard.descent.searched`
EDGE = 1e-4  # a start exactly at 0 or 1 would have no gradient


def zero_shot(subject: Subject) -> Tensor:
    """(C, D) unit class embeddings of the classifier under test.

    Raises:
        InconclusiveError: fewer than three classes, or embeddings that are not finite.
    """
    probe = subject.probe
    if len(probe.class_names) < MIN_CLASSES:
        raise InconclusiveError(
            f"{len(probe.class_names)} classes, at least {MIN_CLASSES} are needed: "
            "a class stands out only against others"
        )
    classes = subject.classes
    require_finite_classes(classes.sum(dim=1), probe.class_names, "the embedding of")
    return classes


def class_logits(model: ClipModel, images: Tensor, classes: Tensor) -> Tensor:
    """(B, C) zero-shot logits of (B, 3, S, S): logit scale times cosine."""
    return model.logit_scale * model.encode_image(images.to(model.device)) @ classes.T


def class_margins(scores: Tensor, truth: Tensor) -> Tensor:
    """(B,) logit of class `truth` minus the largest other one, from (B, C) and (B,)."""
    own = scores.gather(1, truth[:, None])
    others = scores.scatter(1, truth[:, None], -torch.inf)
    return own[:, 0] - others.amax(dim=1)


def require_finite_classes(values: Tensor, names: Sequence[str], what: str) -> None:
    """Refuse to conclude from a broken number of one class.

    Args:
        values: (K,), one a class.
        names: K class names.
        what: what the number is, as in "the loss towards".

    Raises:
        InconclusiveError: NaN or infinite.
    """
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        raise InconclusiveError(f"{what} {names[int(bad[0])]!r} is not a finite number")


def anomaly_index(values: Tensor, floor: float = 0.0) -> Tensor:
    """How many robust standard deviations each class lies from the median.

    Args:
        values: (C,), one a class.
        floor: smallest standard deviation to divide by.

    Returns:
        (C,) float64, negative below the median.

    Raises:
        InconclusiveError: more than half of the classes agree, so that there is no spread.

    Source:
        |x - median| / (1.4826 MAD): Wang et al., Neural Cleanse, IEEE S&P 2019. The sign is kept.
    """
    deviation = values.double() - values.double().quantile(0.5)
    spread = max(MAD_TO_SIGMA * deviation.abs().quantile(0.5).item(), floor)
    if spread == 0:
        raise InconclusiveError("more than half of the classes agree; there is no spread")
    return deviation / spread


@dataclass(frozen=True)
class Steps:
    """Chunks of classes, and progress counted over all of their steps.

    Attributes:
        stage: told with every step.
        classes: C.
        chunk: classes encoded at once.
        steps: steps a chunk.
        progress: told at every step; may raise to stop.

    Raises:
        InconclusiveError: too few steps to say anything.
    """

    stage: str
    classes: int
    chunk: int
    steps: int
    progress: Progress

    def __post_init__(self) -> None:
        if self.steps < MIN_STEPS:
            raise InconclusiveError(
                f"{self.stage}: {self.steps} steps a class, at least {MIN_STEPS} are needed"
            )

    def chunks(self) -> list[Tensor]:
        """Class indices, `chunk` at a time."""
        return list(torch.split(torch.arange(self.classes), self.chunk))

    def of(self, chunk: Tensor) -> Iterator[int]:
        """Every step of one chunk."""
        total = len(self.chunks()) * self.steps
        before = int(chunk[0]) // self.chunk * self.steps
        for step in range(self.steps):
            self.progress(self.stage, before + step, total)
            yield step


@dataclass(frozen=True, eq=False)
class Masks:
    """A mask and a pattern for each class of a chunk, free in [0, 1] through a tanh.

    Attributes:
        place: (K, 1, S, S) leaf.
        paint: (K, 3, S, S) leaf.
    """

    place: Tensor
    paint: Tensor

    @classmethod
    def start(cls, count: int, side: int, seed: int) -> Masks:
        """Uniform in [0, 1], the same for every class, so that only the model differs."""
        drawn = torch.rand(4, side, side, generator=torch.Generator().manual_seed(seed))
        leaf = torch.atanh(drawn.clamp(EDGE, 1 - EDGE) * 2 - 1).repeat(count, 1, 1, 1)
        return cls(leaf[:, :1].clone().requires_grad_(), leaf[:, 1:].clone().requires_grad_())

    @property
    def leaves(self) -> list[Tensor]:
        """What is optimised."""
        return [self.place, self.paint]

    def shown(self) -> tuple[Tensor, Tensor]:
        """Masks (K, 1, S, S) and patterns (K, 3, S, S) in [0, 1]."""
        return self.place.tanh() / 2 + 0.5, self.paint.tanh() / 2 + 0.5


def stamped(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """All of (B, 3, S, S) with each of K triggers: (K * B, 3, S, S), one trigger after another."""
    shape = (len(mask), *images.shape)
    every = images.expand(shape)
    return torch.lerp(every, pattern[:, None].expand(shape), mask[:, None].expand(shape)).flatten(
        0, 1
    )


def step_class_searches(
    optimizer: torch.optim.Optimizer, loss: Tensor, leaves: Sequence[Tensor]
) -> None:
    """One step down `loss`. Gradients are asked for by name: the model's `.grad` stays empty."""
    for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        leaf.grad = grad
    optimizer.step()


def mask_trigger(mask: Tensor, pattern: Tensor) -> Trigger:
    """One class's mask (1, S, S) and pattern (3, S, S) as a trigger."""
    return Trigger(
        family="patch",
        apply=partial(stamp, pattern=pattern, mask=mask),
        size=mask.mean().item(),
        unit="share of the image",
        tensors={"pattern": pattern, "mask": mask},
    )


def class_moved(
    model: ClipModel,
    probe: ProbeSet,
    classes: Tensor,
    target: int,
    trigger: Trigger,
    generator: torch.Generator,
) -> str:
    """What a trigger does to *measure* images, which no search has seen, in words."""
    part = probe.measure
    clean = classify(embed(model, part), classes)
    read = classify(embed(model, part, trigger.apply), classes)
    asr = attack_rate(read, part, clean, target, generator)
    if asr is None:
        return "there are no images of other classes to try it on"
    return f"it moves {asr.value:.0%} of unseen images"
