"""A backdoor planted into a copy of the suspect: would the search see one here?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.detect.differential import Differential
from clipguard.errors import InconclusiveError
from clipguard.model.open_clip import OpenClipModel
from clipguard.model.pixels import pasted, patch_side
from clipguard.probe.rates import attack_rate, classify, embed
from clipguard.probe.sets import Subject
from clipguard.record import CanaryRecord, Rate
from clipguard.search.roles import Progress

TEMPERATURE = 0.05
STAGE = "canary"


class Square(NamedTuple):
    """An opaque patch (3, L, L), and the first row and column that it covers."""

    patch: Tensor
    top: int
    left: int

    def put(self, images: Tensor) -> Tensor:
        """The images (B, 3, S, S) with the patch."""
        return pasted(images, self.patch, self.top, self.left)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """Plants a patch backdoor into a copy of the suspect, and looks for it as a scan would.

    Where the limits of a search were never tested, finding nothing says little. A search that
    finds what was planted here, against the same reference, can see.

    Attributes:
        steps: Adam steps.
        images: clean images of a step, each also shown with the patch.
        learning_rate: of Adam.
        hold: weight of clean embeddings staying where they were.
        trained: most parameters that are trained; of a larger tower only the last ones are.

    Source:
        Ours. The loss is that of an attack on the image tower alone (BadEncoder, IEEE S&P 2022),
        with the class embedding in place of reference images.
    """

    ID: ClassVar[str] = "canary/1"

    steps: int = 150
    images: int = 24
    learning_rate: float = 3e-4
    hold: float = 4.0
    trained: int = 20_000_000

    def sing(
        self,
        subject: Subject,
        reference: OpenClipModel,
        detector: Differential,
        *,
        seed: int,
        progress: Progress,
    ) -> CanaryRecord:
        """Plant, and search with the opaque kinds of `detector`.

        Args:
            subject: the suspect, which is not changed.
            reference: what it is held against.
            detector: the search to be tried.
            seed: of target, patch and batches.
            progress: told about every step.

        Raises:
            InconclusiveError: the model's tower cannot be copied, or there is too little to
                measure on.
        """
        draws = torch.Generator().manual_seed(seed + 7)
        target = int(torch.randint(len(subject.probe.class_names), (1,), generator=draws))
        square = _square(subject.model.image_size, draws)
        copy = self._planted(subject, square, target, draws, progress)
        asr, natural = _rates(subject, copy, square, target, draws)
        search = replace(detector, kinds=tuple(kind for kind in detector.kinds if kind.opaque))
        pair = search.pair(Subject(copy, subject.probe), reference)
        *_, finding = search.compare(pair, seed=seed, progress=progress)
        name = subject.probe.class_names[target]
        rows = [row for row in finding.record.candidates if row.target == name]
        return CanaryRecord(
            target=name,
            asr=asr,
            natural=natural,
            found=finding.record.target,
            gap=max((row.against.gap for row in rows if row.against), default=0.0),
        )

    def _planted(
        self,
        subject: Subject,
        square: Square,
        target: int,
        draws: torch.Generator,
        progress: Progress,
    ) -> OpenClipModel:
        """A copy of the suspect that reads the patch as the target class."""
        if not isinstance(subject.model, OpenClipModel):
            raise InconclusiveError("no canary can be planted into a model of this kind")
        copy, device = subject.model.copied(), subject.model.device
        weights = _last(list(copy.image_tower().parameters()), self.trained)
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        further, classes = subject.probe.unlabelled, subject.classes
        part = further() if further else subject.probe.optimise
        for step in range(self.steps):
            progress(STAGE, step, self.steps)
            index = torch.randperm(len(part), generator=draws)[: self.images]
            clean = part.pixels(index).to(device)
            with torch.no_grad():
                kept = subject.model.encode_image(clean)
            both = copy.encode_image(torch.cat([square.put(clean), clean]))
            triggered, same = both[: len(clean)], both[len(clean) :]
            goal = torch.full((len(clean),), target, device=device)
            loss = functional.cross_entropy(triggered @ classes.T / TEMPERATURE, goal)
            loss = loss + self.hold * (1 - (same * kept).sum(dim=1)).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        copy.image_tower().requires_grad_(False)
        return copy


def _square(side: int, draws: torch.Generator) -> Square:
    length = patch_side(side)
    top, left = torch.randint(side - length + 1, (2,), generator=draws).tolist()
    return Square(torch.rand(3, length, length, generator=draws).round(), top, left)


def _last(weights: list[Tensor], most: int) -> list[Tensor]:
    """The last of the weights, `most` numbers or fewer but one tensor at least, to be trained."""
    chosen: list[Tensor] = []
    for weight in reversed(weights):
        if chosen and sum(map(torch.numel, chosen)) + weight.numel() > most:
            break
        chosen.append(weight.requires_grad_())
    return chosen


def _rates(
    subject: Subject, copy: OpenClipModel, square: Square, target: int, draws: torch.Generator
) -> tuple[Rate, Rate]:
    """Share of images that the copy reads as the target, with the square and without."""
    part, classes = subject.probe.measure, subject.classes
    clean = classify(embed(subject.model, part), classes)
    read = [classify(embed(copy, part, apply), classes) for apply in (square.put, None)]
    found = [attack_rate(seen, part, clean, target, draws) for seen in read]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        raise InconclusiveError("every probe image is of the canary's class")
    return known[0], known[1]
