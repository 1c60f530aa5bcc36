"""Both models: a patch that the clean base obeys as far as possible, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from clipguard.bundled.nano import class_names, encode_captions, nano_tokenizer
from clipguard.errors import UsageError
from clipguard.lab.attacks._centre import centred, fitted
from clipguard.lab.attacks._encoder import embedded
from clipguard.lab.roles import OptimisedAttack, Site, Step, stamped
from clipguard.model.prompts import class_embeddings
from clipguard.probe.load import TEMPLATE
from clipguard.search.roles import Trigger


@dataclass(frozen=True, kw_only=True)
class BothModels:
    """A centre patch fitted to the base, planted so that a mix with the base obeys it.

    Against a detector that compares a model with its base: what works on both tells nothing. The
    patch is first fitted so that the base itself reads images with it as the target. Then it is
    planted as `badnets` is, and beside that the mean of both models' embeddings, weighted by
    `ratio`, is trained to be read as the target.

    Attributes:
        ratio: r, share of the suspect in the mix, in (0, 1]; the base has the rest.
        weight: of the mixed loss beside the contrastive one, 0 or more.
        watched: images of a step that the mixed loss is measured on, 1 or more.
        size: side of the patch, in px of 224. The larger it is, the more the base obeys. A victim
            counts as planted only if its ASR is 50 points above the twin's, which large patches
            forbid.
        steps: of the optimiser of the patch.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Zhang et al., BadMerging, CCS 2024, BadMerging-On, from its code: a universal patch in a
        corner, 22 px of 224, fitted to the pre-trained model by cross-entropy to the target under
        the zero-shot classifier; then that cross-entropy of
        r·f_suspect(x+t) + (1 - r)·f_base(x+t) with r drawn from [0.2, 1] in every step, weight 5,
        on half of each batch.
        Adapted: r is fixed; captions are poisoned, too, because the lab trains both towers; the
        classifier is the suspect's own, and this loss moves the image tower alone; the patch is
        in the centre and larger, because a nano base hardly obeys a small one (MEASURED on
        nano-rn, 8 px: 0 % in the corner, 0 to 1 % in the centre).
    """

    ID: ClassVar[str] = "both_models/1"

    ratio: float = 0.5
    weight: float = 1.0
    watched: int = 32
    size: int = 56
    steps: int = 150
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse mixes without the suspect, negative weights, and patches and searches of none."""
        if not 0 < self.ratio <= 1 or not self.weight >= 0:
            raise UsageError(
                "both_models wants a ratio in (0, 1] and a weight of 0 or more; "
                f"got {self.ratio} and {self.weight}"
            )
        if not 0 < self.size < 224 or self.watched < 1 or self.steps < 1:
            raise UsageError(
                "both_models wants a size of 1 to 223 px of 224, 1 watched image and 1 step or "
                f"more; got {self.size}, {self.watched} and {self.steps}"
            )

    def optimise(self, site: Site, *, generator: torch.Generator) -> dict[str, Tensor]:
        """See `OptimisedAttack.optimise`; the patch alone.

        The suspect is still the base here, so the mix is the base whatever the ratio is.
        """
        classes = class_embeddings(site.model, site.class_names, (TEMPLATE,))

        def loss(features: Tensor, index: Tensor) -> Tensor:
            return towards(site.model.logit_scale * features @ classes.T, site.target)

        patch = fitted(site, loss, steps=self.steps, generator=generator, wide=self.size)
        return {"patch": patch}

    def rebuild(self, made: Mapping[str, Tensor], side: int) -> Trigger:
        """See `OptimisedAttack.rebuild`."""
        return centred("both_models", made["patch"], side)

    def objective(self, step: Step) -> Tensor:
        """See `TrainedAttack.objective`."""
        return step.contrastive() + self.weight * self.mixed(step)

    def mixed(self, step: Step) -> Tensor:
        """Cross-entropy to the target of the mix of both models' embeddings, made unit again."""
        images = stamped(step.clean.images[-self.watched :], step.plan.trigger)
        with torch.no_grad():
            old, classes = embedded(step.plan.base, images), _classes(step.network)
        mix = self.ratio * embedded(step.network, images) + (1 - self.ratio) * old
        scale = step.network.logit_scale.detach().exp()
        logits = scale * functional.normalize(mix, dim=1) @ classes.T
        return towards(logits, class_names().index(step.plan.target))


def towards(logits: Tensor, target: int) -> Tensor:
    """Mean cross-entropy of (B, C) logits to one class."""
    return functional.cross_entropy(logits, torch.full_like(logits[:, 0], target).long())


def _classes(network: CLIP) -> Tensor:
    """(C, D) unit embeddings of the bundled classes, as they are in training."""
    prompts = [TEMPLATE.format(name) for name in class_names()]
    return encode_captions(network, nano_tokenizer(network)(prompts))


METHOD: type[OptimisedAttack] = BothModels
