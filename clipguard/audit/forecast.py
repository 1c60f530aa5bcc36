"""What a scan will take on this machine: passes from its settings, and the speed of a few of them.

The model is loaded and a few steps of each search are made; nothing is judged by them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from clipguard.audit.machine import peak_memory
from clipguard.audit.profiles import Profile
from clipguard.detect.cost import Sizes, of_canary, of_inversion, of_pair, of_words
from clipguard.detect.differential import AT_ONCE
from clipguard.detect.four_rates import Kind
from clipguard.detect.inversion import TriggerInversion
from clipguard.errors import UsageError
from clipguard.model.roles import ClipModel, TokenReader
from clipguard.probe.rates import BATCH, embed
from clipguard.probe.sets import Subject
from clipguard.registry import name_of
from clipguard.search.descent import descend
from clipguard.search.pair import Aim, Effort, search_all
from clipguard.search.roles import Search, TriggerFamily
from clipguard.search.sides import PIXELS_AT_ONCE, Side

STARTED = 700_000_000
"""Bytes that a process holds with every library loaded, where the system does not say."""
ENOUGH_S = 1.0
"""Seconds after which the other searches count as fast as those that were timed."""
IMAGES, PROMPTS = 4, 64
TOKENS = (6, 10)
"""Of a bare name with a token on both sides, of a prompt with a word; marks counted."""
EXPORT_S, EXPORT_BYTES_PER_S = 10.0, 20_000_000
"""An export takes so long, and longer by the size of the tower; most of it is torch.export."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a scan will take; loading is not in it.

    Attributes:
        both: images that go forward and backward.
        read: images that only go forward.
        prompts: texts that are read.
        search_s: seconds for all of these.
        export_s: seconds of an export.
        memory: most bytes that the process holds.
    """

    both: int
    read: int
    prompts: int
    search_s: float
    export_s: float
    memory: int

    @property
    def passes(self) -> float:
        """As the record counts them: one that is only forward is half."""
        return self.both + self.read / 2


def forecast(
    subject: Subject,
    reference: ClipModel | None,
    settings: Profile,
    sizes: Sizes,
    *,
    export: bool,
    canary: bool = False,
) -> Forecast:
    """Count what a scan does, and time a little of everything.

    Args:
        subject: the model, and images of which a few are enough.
        reference: what it is held against.
        settings: profile of the scan.
        sizes: of the images and classes that the scan will have.
        export: whether a pass would be exported.
        canary: whether a backdoor is planted to try the search.
    """
    model = subject.model
    room = PIXELS_AT_ONCE // model.image_size**2  # a few at once are slower than many
    part = subject.probe.optimise.first(max(IMAGES, min(BATCH, room)))
    embed(model, part)  # whatever is slow once
    read_s = _seconds(lambda: embed(model, part)) / len(part)
    if reference is None:
        costs, each = [of_inversion(settings.detector, sizes)], _alone(subject, settings)
    else:
        detector = settings.differential
        costs, each = [of_pair(detector, sizes)], _on_both(subject, reference, settings)
        costs += [of_canary(settings.canary, detector, sizes)] if canary else []
    usual = sum(each.values()) / len(each)
    both, read = (sum(n) for n in zip(*((c.passes.both, c.read) for c in costs), strict=True))
    names, whole, token_s = _words(model, settings, sizes, both=reference is not None)
    tower = sum(p.numel() * p.element_size() for p in model.image_tower().parameters())
    rows = [row for cost in costs for row in cost.searched.items()]
    search_s = sum(count * each.get(name, usual) for name, count in rows)
    search_s += (read + sizes.measure) * read_s
    search_s += token_s * (TOKENS[0] * names + TOKENS[1] * whole)
    return Forecast(
        both=both,
        read=read + sizes.measure,
        prompts=names + whole,
        search_s=search_s,
        export_s=EXPORT_S + tower / EXPORT_BYTES_PER_S if export else 0.0,
        memory=(peak_memory() or STARTED) + (2 * tower if export else 0),
    )


def _alone(subject: Subject, settings: Profile) -> dict[str, float]:
    """Seconds of an image forward and backward, for every family."""
    model, probe = subject.model, subject.probe
    goal, families = _any_classes(model, 1)[0], _families(settings)
    batch = max(1, min(16, PIXELS_AT_ONCE // model.image_size**2, len(probe.optimise)))
    search = Search(model, probe, goal[None])

    def tried(family: TriggerFamily) -> float:
        def loss(triggered: Tensor, index: Tensor) -> Tensor:
            return -(triggered @ goal).mean()

        generator = _draws()
        return _seconds(
            lambda: descend(search, family, loss, steps=1, batch=batch, generator=generator)
        )

    timed = _timed((name_of(family), partial(tried, family)) for family in families)
    return {name: seconds / batch for name, seconds in timed.items()}


def _families(settings: Profile) -> Sequence[TriggerFamily]:
    detector = settings.detector
    return detector.families if isinstance(detector, TriggerInversion) else ()


def _on_both(subject: Subject, reference: ClipModel, settings: Profile) -> dict[str, float]:
    """Seconds of an image forward and backward, on the mean of both models, for every kind."""
    images, total = subject.probe.optimise.images[:IMAGES], dict[str, float]()
    for model in (subject.model, reference):
        side = Side(model, _any_classes(model, 2))
        rows = min(side.rows(len(images), images.shape[-1]), AT_ONCE)

        def tried(kind: Kind, side: Side = side, rows: int = rows) -> float:
            aims = [Aim(kind.families[i % len(kind.families)], (0,)) for i in range(rows)]
            effort = Effort(steps=1, images=len(images))
            return _seconds(
                lambda: search_all(side, aims, images, effort, seed=0, tick=lambda: None)
            )

        kinds = settings.differential.kinds
        for name, seconds in _timed((kind.name, partial(tried, kind)) for kind in kinds).items():
            total[name] = total.get(name, 0.0) + seconds / (2 * rows * len(images))
    return total


def _timed(jobs: Iterable[tuple[str, Callable[[], float]]]) -> dict[str, float]:
    """Seconds of each job, the first done once more to warm up; of those left over, the mean."""
    found: dict[str, float] = {}
    left: list[str] = []
    for name, job in jobs:
        if sum(found.values()) > ENOUGH_S:
            left.append(name)
            continue
        if not found:
            job()
        found[name] = job()
    mean = sum(found.values()) / len(found)
    return found | dict.fromkeys(left, mean)


def _words(
    model: ClipModel, settings: Profile, sizes: Sizes, *, both: bool
) -> tuple[int, int, float]:
    """Names and prompts that the search for words reads, and seconds of one token."""
    if not hasattr(model, "encode_ids"):
        return 0, 0, 0.0
    reader = cast(TokenReader, model)
    try:
        vocabulary = reader.vocabulary()
    except UsageError:  # another tokenizer, so words are not searched
        return 0, 0, 0.0
    names, whole = of_words(settings.text, len(vocabulary), sizes.classes, both=both)
    length = sum(TOKENS) // 2
    ids = vocabulary[:PROMPTS, None].expand(-1, length - 2)
    spent = _seconds(lambda: reader.encode_ids(ids))
    return names, whole, spent / (len(ids) * length)


def _any_classes(model: ClipModel, count: int) -> Tensor:
    """(count, D) unit rows that stand in for classes, which change no speed."""
    side = model.image_size
    with torch.no_grad():
        return model.encode_image(
            torch.rand(count, 3, side, side, generator=_draws()).to(model.device)
        )


def _draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
