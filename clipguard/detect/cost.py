"""What a search costs, counted from its settings before it runs: passes, and prompts.

The counts are those of the searches themselves. Where a count depends on what is found, it is the
most that it can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from clipguard.detect.canary import Canary
from clipguard.detect.differential import AT_ONCE, Differential
from clipguard.detect.four_rates import Kind
from clipguard.detect.inversion import TriggerInversion
from clipguard.detect.marked_prompts import POSITIONS
from clipguard.detect.roles import Detector
from clipguard.detect.text_tokens import WIDER, TextTokens
from clipguard.registry import name_of
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.inverters.screen import Screen
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.pair import Effort
from clipguard.search.roles import Inverter
from clipguard.search.sides import Passes


class Sizes(NamedTuple):
    """How many images and classes there are.

    Attributes:
        optimise: images that are searched on.
        select: images that choose.
        measure: images that rates are measured on.
        classes: C.
        further: names that are no class and may be a target.
    """

    optimise: int
    select: int
    measure: int
    classes: int
    further: int = 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Images that go through the image towers.

    Attributes:
        searched: name of a kind or family to images that go forward and backward for it.
        read: images that only go forward.
    """

    searched: Mapping[str, int] = field(default_factory=dict)
    read: int = 0

    @property
    def passes(self) -> Passes:
        """All of them."""
        return Passes(sum(self.searched.values()), self.read)


def of_pair(detector: Differential, sizes: Sizes) -> Cost:
    """What `Differential.compare` costs, on both models together, with a look at the reference.

    Args:
        detector: the search.
        sizes: of its images and classes.
    """
    select, measure = min(detector.select, sizes.select), min(detector.measure, sizes.measure)
    read = 2 * (sizes.measure + min(detector.clean, sizes.optimise)) + select + measure
    for kind in detector.kinds:
        shown = 1 + min(detector.compared, detector.controls) + kind.opaque
        read += 4 * (_refined(detector, kind, sizes) * select + shown * measure)
    steps = {kind.name: 2 * _steps(detector, kind, sizes) for kind in detector.kinds}
    return Cost(searched=steps, read=read)


def _steps(detector: Differential, kind: Kind, sizes: Sizes) -> int:
    """Images that go through one model for one kind."""

    def of(searches: int, effort: Effort) -> int:
        return searches * effort.steps * min(effort.images, sizes.optimise)

    targets = sizes.classes + sizes.further
    families, moved = len(kind.families), min(detector.moved, targets)
    total = of(families * moved, detector.screen)
    total += of(_refined(detector, kind, sizes), detector.refine)
    if not kind.candidates:
        return total
    size = math.ceil(targets / detector.groups)
    searches = families * math.ceil(targets / size)
    if searches > AT_ONCE:
        total += of(searches, detector.first)
        searches = AT_ONCE
    total += of(searches, detector.screen)
    keep = math.ceil(detector.keep * kind.candidates / 3)
    parts = max(2, detector.groups // detector.keep)
    while size > 1:  # of the groups that go on the largest are split
        piece = math.ceil(size / parts)
        searches = min(keep, searches) * math.ceil(size / piece)
        total += of(searches, detector.screen)
        size = piece
    return total


def _refined(detector: Differential, kind: Kind, sizes: Sizes) -> int:
    return min(detector.moved, sizes.classes + sizes.further) + kind.candidates + detector.controls


def of_canary(canary: Canary, detector: Differential, sizes: Sizes) -> Cost:
    """What `Canary.sing` costs: planting, and the search with the opaque kinds once more.

    Args:
        canary: how a backdoor is planted; its images count twice, without the patch and with it.
        detector: the search that is tried.
        sizes: of its images and classes.
    """
    opaque = tuple(kind for kind in detector.kinds if kind.opaque)
    again = of_pair(replace(detector, kinds=opaque), sizes)
    read = again.read - 2 * sizes.measure + 3 * sizes.measure + canary.steps * canary.images
    planted = {name_of(canary): 2 * canary.steps * canary.images}
    return Cost(searched={**again.searched, **planted}, read=read)


def of_inversion(detector: Detector, sizes: Sizes) -> Cost:
    """What `TriggerInversion.detect` costs at most; two searches of a family may want one class.

    Raises:
        ValueError: another detector.
    """
    if not isinstance(detector, TriggerInversion):
        raise ValueError(f"nothing is known about the cost of {name_of(detector)}")
    searched, read = {}, sizes.measure
    for family in detector.families:
        parts = [_one(detector.collapse, sizes), _one(detector.screen, sizes)]
        refined = _one(detector.targeted, sizes)
        parts += [Passes(refined.both, refined.forward + sizes.measure)] * (1 + detector.candidates)
        searched[name_of(family)] = sum(one.both for one in parts)
        read += sum(one.forward for one in parts)
    return Cost(searched=searched, read=read)


def _one(inverter: Inverter, sizes: Sizes) -> Passes:
    """What one search of one family costs.

    Raises:
        ValueError: an inverter whose cost is not known.
    """
    match inverter:
        case Collapse() | Targeted():
            images = min(inverter.batch, sizes.optimise)
            look = sizes.optimise if isinstance(inverter, Collapse) else 0
            return Passes(
                inverter.restarts * inverter.steps * images,
                look + inverter.restarts * sizes.select,
            )
        case Screen():
            return _screened(inverter, sizes)
        case _:
            raise ValueError(f"nothing is known about the cost of {name_of(inverter)}")


def _screened(screen: Screen, sizes: Sizes) -> Passes:
    alive, steps = min(screen.directions, sizes.classes), screen.steps
    images, total = min(screen.images, sizes.optimise), 0
    while True:
        total += alive * steps * images
        if alive <= screen.finalists:
            return Passes(total, alive * sizes.select)
        alive, steps = max(screen.finalists, int(alive * screen.keep)), 2 * steps


def of_words(text: TextTokens, vocabulary: int, classes: int, *, both: bool) -> tuple[int, int]:
    """Prompts that the search for words reads at most.

    Args:
        text: the search.
        vocabulary: tokens of the text tower.
        classes: C.
        both: whether a reference is asked as well.

    Returns:
        Bare names with a token on both sides, and whole prompts with a word in them.
    """
    tokens = min(text.tokens or vocabulary, vocabulary)
    again = 2 * min(2 * WIDER * text.screened, tokens)
    choose, names = min(text.choose, classes), min(text.names, classes)
    words, beam = min(text.screened, tokens), min(text.beam, text.screened, tokens)
    whole = 0
    for _ in range(text.length):
        whole += len(POSITIONS) * choose * (words + names)
        whole += beam * choose * (1 + names) if both else 0
        words = beam * beam
    unseen = min(text.unseen, classes)
    whole += unseen * (2 + names) + (unseen * (1 + names) if both else 0)
    return tokens + again, whole
