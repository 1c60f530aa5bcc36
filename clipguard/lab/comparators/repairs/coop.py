"""CoOp: class-wise prompts on clean images only, which is what CBPT is without its triggers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.lab.comparators.repairs._role import Patient, Repair
from clipguard.probe.rates import embed
from clipguard.search.roles import Progress

START = "a photo of a"


@dataclass(frozen=True, kw_only=True)
class CoOp:
    """Tune one context per class on clean images; the control of every repair by prompts.

    Attributes:
        steps: SGD steps.
        learning_rate: the peak, decayed to zero along a cosine.
        batch: images in a step.

    Source:
        Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022, with class-specific
        context that starts at "a photo of a": SGD with momentum 0.9 at 0.002, batches of 32, 50
        epochs, of which the first is a warm-up. Adapted: images are not augmented, so they are
        embedded once.
    """

    ID: ClassVar[str] = "coop/1"

    steps: int = 400
    learning_rate: float = 0.1
    batch: int = 32

    def repair(
        self, patient: Patient, *, generator: torch.Generator, progress: Progress
    ) -> Tensor | None:
        """See `Repair.repair`."""
        model, names = patient.subject.model, patient.subject.probe.class_names
        part = patient.labelled
        rows = embed(model, part)
        context = model.embed_tokens(START).expand(len(names), -1, -1).clone().requires_grad_()
        optimizer = torch.optim.SGD([context], lr=self.learning_rate, momentum=0.9)
        for step in range(self.steps):
            progress("prompts", step, self.steps)
            pace = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            optimizer.param_groups[0]["lr"] = self.learning_rate * pace
            index = torch.randint(len(part), (self.batch,), generator=generator)
            logits = model.logit_scale * rows[index] @ model.encode_context(context, names).T
            loss = functional.cross_entropy(logits, part.labels[index].to(logits.device))
            (context.grad,) = torch.autograd.grad(loss, context)
            optimizer.step()
        with torch.no_grad():
            return model.encode_context(context, names)


METHOD: type[Repair] = CoOp
