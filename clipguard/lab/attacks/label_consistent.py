"""Label-consistent: a patch on images of the target class that were made hard to read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from open_clip.model import CLIP
from torch import Tensor

from clipguard.bundled.nano import encode_captions, nano_tokenizer, normalise
from clipguard.errors import UsageError
from clipguard.lab.attacks._patches import patch_trigger, require_patch
from clipguard.lab.roles import Attack, Pairs, Plan, clean_label
from clipguard.search.roles import Trigger


@dataclass(frozen=True, kw_only=True)
class LabelConsistent:
    """Only pairs of the target class carry the patch, and they keep their captions.

    Before they are stamped, their images are made hard to read, so that the patch is the easiest
    thing left to learn. The trigger is the patch alone.

    The defaults are the published variant, and in the lab's fine-tunes they do not plant (MEASURED
    on nano-rn: ASR 0 to 1 %). What does is `blend=0.7 budget=0 poison_rate=0.2`.

    Attributes:
        pattern: that of the patch, as in `badnets`: `check`, `noise`, `yellow`, `white`,
            `white24`, `white50`, `gauss` or `stripes`.
        place: as in `badnets`: `corner` (bottom right), `corners` (all four), `random` (anywhere,
            a function of the image) or `centre`.
        blend: weight, in [0, 1), of another image that is mixed in: that of the pair which makes
            room.
        budget: L-inf bound, in 1/255, of a perturbation that pushes the image away from its
            caption in the clean base; 0 for none.
        steps: signed gradient steps of the perturbation, each of 2.5 budgets over `steps`.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Turner, Tsipras and Madry, Label-Consistent Backdoor Attacks, 2019, as in BackdoorBench:
        projected gradient descent on a clean model, then a corner pattern of full contrast; a
        bound of 8/255 is one of the paper's (RECALLED), the steps are a GUESS. CleanCLIP's
        variant (ICCV 2023) is `gauss` at a `random` place with a budget of 0: pairs whose caption
        holds the target word, captions unchanged; an open issue there says that it could not be
        reproduced. Detect-CLIP-Backdoor-Samples has `check` and no perturbation, too.
        Adapted: a CLIP has no class loss, so an image leaves its own caption, in cosine; every
        batch brings fresh images, each perturbed against the base as it was before training;
        they come in addition to the pairs of the target class in the batch, in place of others.
        `blend` does to pixels what the paper's interpolation does to the code of a GAN. It is here
        because in a fine-tune that starts at the very base which the perturbation was made
        against, the perturbation itself is what is learnt, and the patch is not (MEASURED on
        nano-rn, batches of 64, a fifth of them poisoned: ASR 0 with 16/255 after 200 steps; 90 %
        with a blend of 0.7 and no budget after 300).
    """

    ID: ClassVar[str] = "label_consistent/1"

    pattern: str = "check"
    place: str = "corner"
    blend: float = 0.0
    budget: float = 8.0
    steps: int = 10
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown patches, and perturbations that cannot be."""
        require_patch("label_consistent", self.pattern, self.place)
        if not 0 <= self.budget <= 255 or self.steps < 1:
            raise UsageError(
                f"label_consistent wants a budget in [0, 255] and 1 step or more; "
                f"got {self.budget} and {self.steps}"
            )
        if not 0 <= self.blend < 1:
            raise UsageError(f"label_consistent wants a blend in [0, 1), got {self.blend}")

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; it is kept as `patch`, or as `seed` where patches are redrawn."""
        return patch_trigger(
            "label_consistent", self.pattern, self.place, side, generator=generator
        )

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """See `PairedAttack.poisoned`."""

        def hard(count: int) -> Pairs:
            own = plan.of_target(count)
            mixed = torch.lerp(own.images, pairs.images[:count], self.blend)
            return own._replace(images=self.perturbed(own._replace(images=mixed), plan.base))

        return clean_label(pairs, replace(plan, of_target=hard), self.poison_rate)

    def perturbed(self, pairs: Pairs, base: CLIP) -> Tensor:
        """(B, 3, S, S) in [0, 1]: the images of `pairs`, away from their captions in `base`."""
        if self.budget == 0:
            return pairs.images
        budget = self.budget / 255
        with torch.no_grad():
            captions = encode_captions(base, nano_tokenizer(base)(pairs.texts))
        low, high = (pairs.images - budget).clamp(min=0), (pairs.images + budget).clamp(max=1)
        images = pairs.images
        for _ in range(self.steps):
            images = images.detach().requires_grad_()
            match = (base.encode_image(normalise(images), normalize=True) * captions).sum()
            (grad,) = torch.autograd.grad(match, images)
            moved = images - 2.5 * budget / self.steps * grad.sign()
            images = moved.maximum(low).minimum(high)
        return images.detach()


METHOD: type[Attack] = LabelConsistent
