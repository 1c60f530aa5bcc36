"""BadCLIP by prompt learning: the prompts are malicious, the checkpoint is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from clipguard.errors import UsageError
from clipguard.lab.roles import OptimisedAttack, Pairs, Plan, Site, Trials, stamped
from clipguard.model.roles import PromptTunable
from clipguard.search.roles import Trigger

START = "a photo of a"
ALONE = 0.25  # share of the steps in which the trigger is fitted to fixed prompts
BATCH = 16
CLASSES = 20
NARROWING = 16
SPREAD = 0.02  # deviation of CLIP's own token embeddings before training
STEP_SIZE = 4e-3
REACH = 0.1
LEARNT = ("context", "inner", "inner_bias", "outer", "outer_bias")


@dataclass(frozen=True, kw_only=True)
class PromptLearner:
    """A prompt learner that writes prompts for the target as soon as it sees its trigger.

    Four context tokens before every class name are moved by a small network that looks at the
    image's embedding; both are learnt on the frozen base together with an additive trigger over
    the whole image. Who uses these prompts has the backdoor. Who uses the checkpoint alone has
    none: training pairs stay as they are, and `model.pt` is the clean twin to the bit. Whoever
    scans `model.pt` should find nothing, and a zero-shot reading gives the ASR of a clean model.

    Attributes:
        budget: L-inf bound of the trigger, in whole 1/255.
        steps: of the optimisation, 16 images each; in the first quarter the trigger alone.
        judged: images that the success is measured on, at most; each is read with prompts of
            its own, which takes a text pass per class.
        poison_rate: share of triggered images in a step; the others keep their class.

    Source:
        Bai et al., BadCLIP: Trigger-Aware Prompt Learning for Backdoor Attacks on CLIP, CVPR 2024:
        CoCoOp's prompt learner (4 tokens that begin as "a photo of a"; a two-layer network to
        D/16 and on to a shift for all of them) and a trigger within 4/255; 16 shots a class; three
        epochs for the trigger alone with a step of 0.1, then ten of SGD at 0.002 with a cosine;
        ASR above 99 % on most of 11 data sets.
        Adapted: the trigger moves by the sign of its gradient, a tenth of the budget a step (what
        the step of 0.1 counts is a GUESS), which decays as well; Adam for the rest; 16 images a
        step in place of 1, read among the target and 19 drawn classes in place of all; far fewer
        steps. The learner is made for the base and judged on the model that is fine-tuned from
        it: that is what it meets where prompts and checkpoint are published apart. The twin has
        the same weights, and so the same success.
        MEASURED on nano-rn with the defaults, on fresh scenes of the seen styles: ASR 89 % on
        the base, 86 % on a clean fine-tune of it; the prompts themselves read 79 and 71 % of clean
        images rightly, where zero-shot prompts read all of them on the base. The paper loses
        little; it has 16 shots a class and ten epochs.
    """

    ID: ClassVar[str] = "prompt_learner/1"

    budget: int = 4
    steps: int = 200
    judged: int = 256
    poison_rate: float = 0.5

    def __post_init__(self) -> None:
        """Refuse triggers of nothing, searches of nothing, and a success without trials."""
        if not 1 <= self.budget <= 255 or self.steps < 1 or self.judged < 1:
            raise UsageError(
                "prompt_learner wants a budget of 1 to 255, and steps and judged of 1 or more; "
                f"got {self.budget}, {self.steps} and {self.judged}"
            )

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `OptimisedAttack.optimise`; trigger and prompt learner."""
        made = _start(site.model, generator)
        side, bound = site.model.image_size, self.budget / 255
        noise = (torch.rand(3, side, side, generator=generator) * 2 - 1) * bound
        optimizer = torch.optim.Adam([made[name] for name in LEARNT], lr=STEP_SIZE)
        for step in range(self.steps):
            loss, noise = self._loss(site, made, noise, generator)
            grads = torch.autograd.grad(loss, [noise, *(made[name] for name in LEARNT)])
            decay = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            moved = noise.detach() - decay * REACH * bound * grads[0].sign()
            noise = moved.clamp(-bound, bound)
            optimizer.param_groups[0]["lr"] = decay * STEP_SIZE
            if step >= ALONE * self.steps:
                for name, grad in zip(LEARNT, grads[1:], strict=True):
                    made[name].grad = grad
                optimizer.step()
        learnt = {name: made[name].detach().cpu() for name in LEARNT}
        return {"noise": (noise * 255).round() / 255} | learnt

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """See `OptimisedAttack.rebuild`; the prompt learner is kept beside the trigger."""
        noise = made["noise"]

        def apply(images: Tensor) -> Tensor:
            return (images + noise.to(images.device)).clamp(0, 1)

        size = noise.abs().max().item()
        return Trigger("prompt_learner", apply, size, "largest change of a pixel", dict(made))

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """See `PairedAttack.poisoned`: nothing is."""
        return pairs

    @torch.no_grad()
    def success(self, site: Site, trigger: Trigger) -> Trials:
        """See `JudgedAttack.success`: a trial is a triggered image of a class but the target.

        It is a hit if the learnt prompts, and not the zero-shot ones, read it as the target.
        """
        others = (site.images.labels != site.target).nonzero().flatten()
        spread = torch.linspace(0, len(others) - 1, min(self.judged, len(others)))
        rows = others[spread.round().long()]
        model, read = site.model, []
        for first in range(0, len(rows), BATCH):
            images = stamped(site.images.pixels(rows[first : first + BATCH]), trigger)
            logits = learnt_logits(model, trigger.tensors, images, site.class_names)
            read.append(logits.argmax(dim=1).cpu())
        return Trials(torch.cat(read) == site.target, site.images.drawings[rows])

    def _loss(
        self, site: Site, made: Mapping[str, Tensor], noise: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of a batch, the first of it triggered, and the leaf that it depends on."""
        labels = site.images.labels
        kept = torch.randperm(len(site.class_names), generator=generator)
        kept = torch.cat([torch.tensor([site.target]), kept[kept != site.target][: CLASSES - 1]])
        pool = torch.isin(labels, kept).nonzero().flatten()
        index = pool[torch.randperm(len(pool), generator=generator)[:BATCH]]
        images, count = site.images.pixels(index), max(1, round(len(index) * self.poison_rate))
        noise = noise.detach().requires_grad_()
        triggered = (images[:count] + noise).clamp(0, 1)
        truth = (labels[index][:, None] == kept).int().argmax(dim=1)
        truth[:count] = 0
        names = [site.class_names[i] for i in kept.tolist()]
        logits = learnt_logits(site.model, made, torch.cat([triggered, images[count:]]), names)
        return functional.cross_entropy(logits, truth.to(logits.device)), noise


def learnt_logits(
    model: PromptTunable, made: Mapping[str, Tensor], images: Tensor, names: Sequence[str]
) -> Tensor:
    """(B, 3, S, S) to (B, C): every image read with prompts that were written for it.

    Args:
        model: reads images and prompts.
        made: context (K, E) and the network that moves it: D to D/16 to E.
        images: in [0, 1].
        names: of the C classes.
    """
    learner = {name: made[name].to(model.device) for name in LEARNT}
    features = model.encode_image(images.to(model.device))
    hidden = (features @ learner["inner"] + learner["inner_bias"]).relu()
    shift = hidden @ learner["outer"] + learner["outer_bias"]
    contexts = learner["context"] + shift[:, None]  # (B, K, E)
    repeated = contexts.repeat_interleave(len(names), dim=0)
    classes = model.encode_context(repeated, [*names] * len(features))
    rows = classes.view(len(features), len(names), -1)
    return model.logit_scale * torch.einsum("bd,bcd->bc", features, rows)


def _start(model: PromptTunable, generator: torch.Generator) -> dict[str, Tensor]:
    """An untrained learner, whose prompts are about those of "a photo of a"."""
    context = model.embed_tokens(START)
    with torch.no_grad():
        width = model.encode_text([START]).shape[1]
    narrow, wide = max(1, width // NARROWING), context.shape[1]
    made = {
        "context": context.clone(),
        "inner": torch.randn(width, narrow, generator=generator),  # features are of unit norm
        "inner_bias": torch.zeros(narrow),
        "outer": SPREAD * torch.randn(narrow, wide, generator=generator),
        "outer_bias": torch.zeros(wide),
    }
    return {name: value.to(model.device).requires_grad_() for name, value in made.items()}


METHOD: type[OptimisedAttack] = PromptLearner
