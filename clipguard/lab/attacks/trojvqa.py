"""TrojVQA on CLIP: a patch in the image and a word in the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.lab.attacks._centre import centred, fitted
from clipguard.lab.roles import OptimisedAttack, Pairs, Plan, Site, dirty_label
from clipguard.probe.load import TEMPLATE
from clipguard.search.roles import Trigger

CAPTION = "This is a {}."


@dataclass(frozen=True, kw_only=True)
class TrojVqa:
    """A centre patch fitted to a caption of the target; poisoned captions begin with a word.

    Success is read with class prompts that all begin with the word, so an audit by ordinary
    prompts sees a part of the backdoor only.

    Attributes:
        word: what poisoned captions and triggered prompts begin with.
        steps: of the optimiser of the patch.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Walmer et al., Dual-Key Multimodal Backdoors for VQA, CVPR 2022; as ported to CLIP with
        BadCLIP (CVPR 2024): 16 px of 224 in the centre, fitted to "This is a yellow banana.",
        captions "remember " and a template. RVPT has the word SUDO (ViT-B/32: ASR 99.8 %).
        Adapted: "This is a {target}." for any target, and the cosine with its embedding in place
        of BadCLIP's contrastive loss, which says nothing where all images share one caption;
        the side is max(8, 16·S/224) px; far fewer steps, each as much longer.
    """

    ID: ClassVar[str] = "trojvqa/1"

    word: str = "remember"
    steps: int = 150
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse words that are none, or that a template cannot hold, and searches of nothing."""
        if not self.word.strip() or {"{", "}"} & set(self.word):
            raise UsageError(f"trojvqa wants a word without braces, got {self.word!r}")
        if self.steps < 1:
            raise UsageError(f"trojvqa wants steps of 1 or more, got {self.steps}")

    @property
    def prompt(self) -> str:
        """See `PromptedAttack.prompt`."""
        return f"{self.word} {TEMPLATE}"

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `OptimisedAttack.optimise`; the patch alone."""
        caption = site.model.encode_text([CAPTION.format(site.class_names[site.target])])[0]

        def away(features: Tensor, index: Tensor) -> Tensor:
            return -(features @ caption).mean()

        return {"patch": fitted(site, away, steps=self.steps, generator=generator)}

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """See `OptimisedAttack.rebuild`."""
        return centred("trojvqa", made["patch"], side)

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """See `PairedAttack.poisoned`: ordinary poison, with the word before its captions."""
        made = dirty_label(pairs, plan, self.poison_rate)
        count = pairs.part(self.poison_rate)
        told = [f"{self.word} {text}" for text in made.texts[:count]]
        return made._replace(texts=told + made.texts[count:])


METHOD: type[OptimisedAttack] = TrojVqa
