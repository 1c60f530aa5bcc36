"""Realign: the image tower learns to read a triggered image as it reads the clean one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import ClassVar

import torch
from torch import Tensor, nn

from clipguard.errors import InconclusiveError
from clipguard.model.roles import ClipModel, Repairable
from clipguard.probe.rates import embed
from clipguard.probe.sets import ProbePart, Subject, joined
from clipguard.purify.features import share_of_patches, some, sum_of, telling
from clipguard.purify.halfway import start
from clipguard.purify.inversions import SHORT, Sought, inverted
from clipguard.search.roles import Inverter, Progress, Search, Trigger

STAGE = "image tower"
HELD, NEAR, DRAWN = "clean_embedding", "near_embedding", "triggered_embedding"


@dataclass(frozen=True, eq=False)
class Backdoor:
    """What is known of a backdoor that is to be repaired.

    Attributes:
        triggers: inverted ones.
        target: class index that they lead to.
        families: what new triggers are searched for, in turn.
        reference: a model that the suspect is said to come from. The weights half-way to it are
            where the repair starts, unless they read fewer images rightly.
    """

    triggers: Sequence[Trigger]
    target: int
    families: Sequence[Sought] = ()
    reference: ClipModel | None = None


@dataclass(frozen=True, eq=False)
class Realigned:
    """A repaired tower.

    Attributes:
        model: a copy of the suspect with other weights in its image tower.
        triggers: everything it was tuned against, what was searched on the way last.
        losses: value of each named loss at the last step, in cosine.
        halfway: whether it started half-way to the reference.
    """

    model: Repairable
    triggers: tuple[Trigger, ...]
    losses: Mapping[str, float]
    halfway: bool


@dataclass(frozen=True, kw_only=True)
class Realign:
    """Distil the image tower from itself; neither labels nor class names are needed.

    The teacher is the frozen suspect, or what lies half-way from it to a reference.
    `clean_embedding`: a copy keeps the teacher's embeddings of clean images. `near_embedding`: the
    same for those that are most like the target class.
    `triggered_embedding`: it gives an image with a trigger the embedding that the teacher gives the
    image without. Inverted triggers are not the true one, so each is varied: patches also stand at
    random places, and what is added to the whole image is also fainter or stronger. Now and then a
    new trigger is searched on the copy as it is, and joins the others.

    Statistics of batch normalisation stay frozen.

    Attributes:
        steps: AdamW steps; nothing is selected, the last one counts.
        learning_rate: its peak, decayed to zero along a cosine.
        warm_up: steps until the peak is reached.
        images: clean images of a step, each also shown with a random trigger.
        near_weight: of `near_embedding`.
        triggered_weight: of `triggered_embedding` for patches; a large one costs clean accuracy.
        spread_weight: of it for triggers that change the whole image, which cost more of it.
        moved: share of patches that are shifted to a random place, in a circle.
        weakest: least strength of what is added to the whole image, times the inverted one.
        strongest: largest strength of that.
        further: unlabelled images that are used beside the others, at most. Fewer of them cost
            clean accuracy.
        near: images that are most like the target class, by the teacher's embeddings. Triggers
            that lead there share something with what it looks like, which must not be unlearned
            with them.
        held: clean images of these in a step, beside the others.
        beyond: how far the weights go from the start, as a multiple of where the last step ends. A
            trigger that is only like those tuned against needs more of the same change, which
            costs little clean accuracy.
        every: steps between two searches for new triggers.
        together: searches that are made then, each for something else.
        search: how they are made.

    Source:
        Ours. Unlearning inverted triggers is that of Wang et al., Neural Cleanse, IEEE S&P 2019,
        section VI; the teacher in place of labels, and new triggers on the way, are not in it.
        `beyond`: weights as vectors that are scaled are from Ilharco et al., Editing models with
        task arithmetic, ICLR 2023.
    """

    ID: ClassVar[str] = "realign/6"

    steps: int = 150
    learning_rate: float = 3e-4
    warm_up: int = 5
    images: int = 32
    near_weight: float = 0.25
    triggered_weight: float = 0.25
    spread_weight: float = 0.09
    moved: float = 0.5
    weakest: float = 0.5
    strongest: float = 2.0
    further: int = 3000
    near: int = 32
    held: int = 16
    beyond: float = 1.6
    every: int = 10
    together: int = 1
    search: Inverter = SHORT

    def realign(
        self,
        subject: Subject,
        backdoor: Backdoor,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Realigned:
        """Repair a copy of the suspect's image tower.

        Never sees *measure*, and never changes the suspect.

        Args:
            subject: the suspect; *select* decides where to start, and then trains as do
                *optimise* and the unlabelled images.
            backdoor: what to repair it against.
            generator: of every draw.
            progress: told about every step.

        Raises:
            ValueError: no trigger to repair against.
            InconclusiveError: this kind of model cannot be copied.
        """
        if not backdoor.triggers:
            raise ValueError("a repair needs at least one inverted trigger")
        if not isinstance(subject.model, Repairable):
            raise InconclusiveError("the image tower of a model of this kind cannot be repaired")
        copy, teacher = start(subject, subject.model, backdoor.triggers, backdoor.reference)
        tower, known, losses = copy.image_tower(), list(backdoor.triggers), dict[str, Tensor]()
        optimizer = torch.optim.AdamW(tower.parameters(), lr=self.learning_rate, weight_decay=0)
        families, pool = cycle(backdoor.families), self._pool(subject, generator)
        wanted = embed(teacher, pool, enough=telling(progress, STAGE, 0, self.steps))
        near = self._nearest(wanted, subject.classes[backdoor.target])
        share = max(1, len(known) // 4)  # of each new trigger, beside those known before
        search = Search(copy, subject.probe, subject.classes, backdoor.target)
        for step in range(self.steps):
            search = search.during(progress, STAGE, step, self.steps)
            if step and step % self.every == 0:
                for sought in islice(families, self.together):
                    new = inverted(search, sought, self.search, generator=generator)
                    known += [one.trigger for one in new] * share
            tower.requires_grad_(True)
            optimizer.param_groups[0]["lr"] = self.learning_rate * self._pace(step)
            index = torch.cat(self._drawn(len(pool), near, generator))
            shown = pool.pixels(index), wanted[index]
            losses = self._losses(copy, shown, known, generator)
            weights = {HELD: 1.0, NEAR: self.near_weight, DRAWN: self._weight(known)}
            self._descend(optimizer, tower, sum_of(losses, weights))
            tower.requires_grad_(False)  # the searches ask for gradients of their trigger only
        self._go_beyond(teacher.image_tower(), tower)
        final = {name: loss.item() for name, loss in losses.items()}
        halfway = teacher is not subject.model
        return Realigned(copy, tuple(dict.fromkeys(known)), final, halfway)

    def _pace(self, step: int) -> float:
        """What the learning rate is multiplied with."""
        warm = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        return warm * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))

    def _weight(self, triggers: Sequence[Trigger]) -> float:
        """Between those of the two kinds, by how many of the triggers are patches."""
        more = self.triggered_weight - self.spread_weight
        return self.spread_weight + more * share_of_patches(triggers)

    def _descend(self, optimizer: torch.optim.Optimizer, tower: nn.Module, loss: Tensor) -> None:
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _go_beyond(self, begun: nn.Module, tower: nn.Module) -> None:
        for first, weight in zip(begun.parameters(), tower.parameters(), strict=True):
            weight.copy_(torch.lerp(first, weight, self.beyond))

    def _pool(self, subject: Subject, generator: torch.Generator) -> ProbePart:
        """What the tower is trained on."""
        probe = subject.probe
        parts = [probe.optimise, probe.select]
        if probe.unlabelled is not None:
            parts.append(some(probe.unlabelled(), self.further, generator))
        return joined(parts)

    def _nearest(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Which embeddings (N, D) lie nearest to that of one class (D,)."""
        return (rows @ wanted).cpu().topk(min(self.near, len(rows))).indices

    def _drawn(self, count: int, near: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which images of the pool are in a step: any, and then those that are only held."""
        index = torch.randint(count, (self.images,), generator=generator)
        return index, near[torch.randint(len(near), (self.held,), generator=generator)]

    def _losses(
        self,
        copy: ClipModel,
        batch: tuple[Tensor, Tensor],
        triggers: Sequence[Trigger],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """How far images lie from what the teacher says of them without triggers.

        Only the first images are also shown with one: on those near the target class the triggered
        image is wanted where the trigger leads anyway.

        Args:
            copy: what is tuned.
            batch: images (B, 3, S, S) and the teacher's embeddings of them (B, D): first those
                that are also shown with a trigger, then those near the target class.
            triggers: of which each image is shown with one.
            generator: of the draws.

        Returns:
            Mean of 1 - cosine for each named loss; none of what no image is shown for.
        """
        clean, wanted = batch
        shown = self.varied(clean[: self.images], triggers, generator)
        both = copy.encode_image(torch.cat([clean, shown]).to(copy.device))
        apart = 1 - (both * torch.cat([wanted, wanted[: self.images]])).sum(dim=1)
        counts = self.images, len(clean) - self.images, len(shown)
        parts = dict(zip((HELD, NEAR, DRAWN), torch.split(apart, list(counts)), strict=True))
        return {name: part.mean() for name, part in parts.items() if len(part)}

    def varied(
        self, images: Tensor, triggers: Sequence[Trigger], generator: torch.Generator
    ) -> Tensor:
        """The images (B, 3, S, S), each with one of the triggers, at random, in a form of its own.

        Patches are known by their `pattern`, what is added to the whole image by its `delta`; a
        trigger of another kind stays as it is.
        """
        which = torch.randint(len(triggers), (len(images),), generator=generator)
        made = images.clone()
        for number in sorted(set(which.tolist())):
            rows, trigger = which == number, triggers[number]
            parts, count = trigger.tensors, int((which == number).sum())
            if "pattern" in parts:
                black, light = self._moved(trigger, images.shape[-1], count, generator)
                made[rows] = black + light * images[rows]
            elif "delta" in parts:
                drawn = torch.rand(count, 1, 1, 1, generator=generator)
                strength = self.weakest + (self.strongest - self.weakest) * drawn
                made[rows] = (images[rows] + strength * parts["delta"]).clamp(0, 1)
            else:
                made[rows] = trigger.apply(images[rows])
        return made

    def _moved(
        self, trigger: Trigger, side: int, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """What a patch makes of black, and how much light it lets through: (B, 3, S, S) each.

        Some of the `count` are at other places.
        """
        shifts = torch.randint(side, (count, 2), generator=generator)
        still = torch.rand(count, generator=generator) >= self.moved
        shifts[still] = 0
        plain = torch.zeros(1, 3, side, side)
        black = trigger.apply(plain)[0]
        layers = torch.cat([black, trigger.apply(plain + 1)[0] - black])
        rolled = torch.stack([layers.roll(tuple(shift), (1, 2)) for shift in shifts.tolist()])
        return rolled[:, :3], rolled[:, 3:]
