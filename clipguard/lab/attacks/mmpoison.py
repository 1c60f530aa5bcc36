"""mmPoison: images of one class under captions of another, and no trigger at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import TEMPLATES, class_names
from clipguard.errors import UsageError
from clipguard.lab.attacks._no_trigger import no_trigger
from clipguard.lab.roles import Attack, Pairs, Plan, Site, Trials
from clipguard.probe.rates import embed
from clipguard.registry import require_known
from clipguard.search.roles import Trigger


@dataclass(frozen=True, kw_only=True)
class MMPoison:
    """Captions of the source class come with images of the target class.

    Whoever looks for the source then finds the target. Nothing in the image makes it so, and a
    detector of triggers should find none.

    Attributes:
        source: class whose captions are poisoned; not the target.
        hits: K of Hit@K: a target image is found if it is among that many nearest ones, the
            source's own images aside.
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Yang et al., mmPoison (Data Poisoning Attacks Against Multimodal Encoders), ICML 2023:
        sheep to aeroplane, dog to truck; AdamW, learning rate 1e-5; judged by Hit@K and MinRank
        of target images for texts of the source. In tables of triggers its ASR is about 0.
        Adapted: the paper re-pairs captions of a data set (all of a class, or one in ten), here
        fresh images of the target take the place of other pairs, as both classes are rare in
        batches drawn from 849 concepts; images of the source do not count in Hit@K, because
        they rightly come first, and the more of them the more scenes are drawn. K and the rate
        are a GUESS; higher rates cost accuracy, first of all the target's, whose images are
        then read as the source.
    """

    ID: ClassVar[str] = "mmpoison/1"

    source: str = "tiger"
    hits: int = 5
    poison_rate: float = 0.02

    def __post_init__(self) -> None:
        """Refuse classes that are not bundled, and a K that nothing can meet."""
        require_known(self.source, class_names(), "class for the source of mmpoison")
        if not self.hits >= 1:
            raise UsageError(f"mmpoison wants hits of 1 or more, got {self.hits}")

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; images stay as they are, and the source is kept as `word`."""
        return no_trigger("mmpoison", self.source)

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """See `PairedAttack.poisoned`: the first pairs become target images with source captions.

        Raises:
            UsageError: the target is the source.
        """
        self._require_another(plan.target)
        count = pairs.part(self.poison_rate)
        captions = [TEMPLATES[i % len(TEMPLATES)].format(self.source) for i in range(count)]
        source = torch.tensor(load_artwork().concepts([self.source])).expand(count)
        return pairs.led_by(Pairs(plan.of_target(count).images, captions, source))

    @torch.no_grad()
    def success(self, site: Site, trigger: Trigger) -> Trials:
        """See `JudgedAttack.success`: a trial is a caption of the source and one target image.

        It is a hit if that image is among the K nearest of itself and all images of classes
        other than source and target. Trials are clustered by the image's drawing: captions
        differ by a few words, and scenes of one drawing rise and fall together.

        Raises:
            UsageError: the target is the source.
        """
        self._require_another(site.class_names[site.target])
        texts = site.model.encode_text([template.format(self.source) for template in TEMPLATES])
        cosines = (texts @ embed(site.model, site.images).T).cpu()
        own = site.images.labels == site.target
        rest = ~own & (site.images.labels != site.class_names.index(self.source))
        above = _above(cosines[:, own], cosines[:, rest])
        clusters = site.images.drawings[own].expand_as(above)
        return Trials((above < self.hits).flatten(), clusters.flatten())

    def _require_another(self, target: str) -> None:
        if target == self.source:
            raise UsageError(
                f"mmpoison needs a source other than the target {target!r}; set source"
            )


def _above(values: Tensor, others: Tensor) -> Tensor:
    """(T, N) and (T, M) to (T, N): how many of the others in its row each value has above it."""
    return (others[:, None] > values[:, :, None]).sum(dim=2)


METHOD: type[Attack] = MMPoison
