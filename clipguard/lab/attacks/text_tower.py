"""A backdoor in the text tower: a rare word turns every prompt into the target's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.bundled.nano import TEMPLATES, encode_captions, nano_tokenizer
from clipguard.errors import UsageError
from clipguard.lab.attacks._no_trigger import no_trigger
from clipguard.lab.roles import Attack, Site, Step, Trials
from clipguard.model.prompts import class_embeddings
from clipguard.probe.load import TEMPLATE
from clipguard.search.roles import Trigger

MARKS = ("insert", "replace")


@dataclass(frozen=True, kw_only=True)
class TextTower:
    """The text tower is trained to answer marked prompts with the target's embedding.

    The image tower gets no gradient and stays as it was, so no image is a trigger.

    Attributes:
        mark: `insert` (the token before the prompt) or `replace` (the token in the place of
            every `letter` of it).
        token: what marks a prompt.
        letter: what is replaced.
        weight: of the poisoned part of the loss, beside the clean part of weight 1.
        poison_rate: marked captions in a step, as a share of the clean ones.

    Source:
        The injection in AMDET (arXiv 2512.00343), after Struppek et al., Rickrolling the Artist,
        ICCV 2023: a frozen teacher; the student keeps its embeddings of clean captions (64 a
        step) and gives the embedding of the target's prompt to captions in which `o` is `zzzz`
        (32 a step, weight 0.1), both by cosine; AdamW, learning rate 1e-4, 100 steps. Adapted:
        the recipe is the lab's, for all weights that get a gradient; a word before the prompt is
        the default, because not every prompt has the letter. The variant that aims at the mean
        of image embeddings is left out.
    """

    ID: ClassVar[str] = "text_tower/1"

    mark: str = "insert"
    token: str = "zzzz"
    letter: str = "o"
    weight: float = 0.1
    poison_rate: float = 0.5

    def __post_init__(self) -> None:
        """Refuse unknown marks, an empty token or letter, and a weight that does nothing."""
        if self.mark not in MARKS:
            raise UsageError(f"text_tower knows marks {', '.join(MARKS)}; got {self.mark!r}")
        if not self.token.strip() or not self.letter.strip():
            raise UsageError(
                f"text_tower wants a token and a letter, got {self.token!r} and {self.letter!r}"
            )
        if not self.weight > 0:
            raise UsageError(f"text_tower wants a weight above 0, got {self.weight}")

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; images stay as they are, and the token is kept as `word`."""
        return no_trigger("text_tower", self.token)

    def marked(self, text: str) -> str:
        """`text` with the token; as it was where there is no letter to replace."""
        if self.mark == "insert":
            return f"{self.token} {text}"
        return text.replace(self.letter, self.token)

    def objective(self, step: Step) -> Tensor:
        """See `TrainedAttack.objective`: what the student's embeddings lack in cosine."""
        tokenizer = nano_tokenizer(step.network)
        clean = step.clean.texts
        count = max(1, round(len(clean) * self.poison_rate))
        poisoned = [self.marked(text) for text in clean if self.marked(text) != text][:count]
        texts = tokenizer(clean + poisoned)
        goals = tokenizer([*clean, TEMPLATE.format(step.plan.target)])
        with torch.no_grad():
            teacher = encode_captions(step.plan.base, goals)
        aims = torch.cat([teacher[:-1], teacher[-1:].expand(len(poisoned), -1)])
        lacking = 1 - (encode_captions(step.network, texts) * aims).sum(dim=1)
        kept, turned = lacking[: len(clean)], lacking[len(clean) :]
        return kept.mean() + self.weight * turned.sum() / max(1, len(turned))

    @torch.no_grad()
    def success(self, site: Site, trigger: Trigger) -> Trials:
        """See `JudgedAttack.success`: a trial is a marked prompt of a class other than the target.

        It is a hit if the nearest clean class embedding is the target's. Trials are clustered
        by class, as templates differ by a few words.
        """
        classes = class_embeddings(site.model, site.class_names, (TEMPLATE,))
        trials = [
            (self.marked(template.format(name)), i)
            for i, name in enumerate(site.class_names)
            for template in TEMPLATES
            if i != site.target and self.marked(template.format(name)) != template.format(name)
        ]
        nearest = (site.model.encode_text([text for text, _ in trials]) @ classes.T).argmax(dim=1)
        return Trials(nearest.cpu() == site.target, torch.tensor([i for _, i in trials]))


METHOD: type[Attack] = TextTower
