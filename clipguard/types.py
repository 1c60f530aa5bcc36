"""Values and roles that cross modules.

Letters: B batch, N images, C classes, D embedding, S image side, K context tokens, E token width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from clipguard.pixels import from_bytes
from clipguard.record import AuditRecord, DetectorRecord, ExportRecord, FamilyRecord

Progress = Callable[[str, int, int], None]
"""Told about progress: stage, steps done, steps in all. Never prints by itself."""


class ClipModel(Protocol):
    """A CLIP with frozen weights, in evaluation mode, seen through raw pixels."""

    @property
    def image_size(self) -> int:
        """S, the side of a square input image, in pixels."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    @property
    def logit_scale(self) -> float:
        """exp(logit_scale), the factor between cosines and logits."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Map (B, 3, S, S) in [0, 1] to (B, D) of unit norm; differentiable in `images`."""
        ...

    def image_tower(self) -> nn.Module:
        """The module behind `encode_image`, normalisation included, for exporters."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Map C texts to (C, D) of unit norm."""
        ...


class PromptTunable(ClipModel, Protocol):
    """A `ClipModel` whose text tower also reads learnable context tokens."""

    def embed_tokens(self, text: str) -> Tensor:
        """(K, E) token embeddings of `text`, without start and end marks."""
        ...

    def encode_context(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """Encode the sequence [SOS] context_c name_c . [EOS] for every class.

        Args:
            context: (C, K, E) token embeddings; the result is differentiable in them.
            class_names: C names.

        Returns:
            (C, D) of unit norm. Prompts are cut at the last end-of-text, which is exact for a
            causal tower.
        """
        ...


class TokenReader(PromptTunable, Protocol):
    """A `PromptTunable` whose vocabulary is known, so that every token of it can be tried."""

    def vocabulary(self) -> Tensor:
        """(V,) ids of all tokens, start and end marks left out."""
        ...

    def token_ids(self, text: str) -> list[int]:
        """What `text` is read as, without start and end marks."""
        ...

    def text_of(self, ids: Sequence[int]) -> str:
        """What stands for `ids`; a token that ends a word has a space behind it."""
        ...

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Encode [SOS] ids [EOS] for (B, L) token ids: (B, D) of unit norm."""
        ...


@dataclass(frozen=True, eq=False)
class ProbePart:
    """Images used for one purpose only.

    Attributes:
        images: (N, 3, S, S) uint8.
        labels: (N,) class indices; -1 where the true class is unknown or not in the list.
        drawings: (N,) id of the drawing or file behind each image.
    """

    images: Tensor
    labels: Tensor
    drawings: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.images)

    def pixels(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The images of `index`, (B, 3, S, S) in [0, 1]."""
        return from_bytes(self.images[index])


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Clean images in three disjoint parts, and the class list.

    Attributes:
        optimise: gradients of every search and of purification.
        select: best restart, candidate targets; purification tunes on it as well.
        measure: every published rate; nothing is ever tuned on it.
        unlabelled: further clean images of anything; purification sees them, nothing else does.
        class_names: C distinct names.
        templates: prompt templates, each with one `{}`.
        source: `bundled` or the name of a folder.
        skipped: images that could not be read.
        warnings: what was merged or left out.
    """

    optimise: ProbePart
    select: ProbePart
    measure: ProbePart
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    source: str
    skipped: int = 0
    warnings: tuple[str, ...] = ()
    unlabelled: ProbePart | None = None

    @property
    def labelled(self) -> bool:
        """Whether true classes are known for the images that rates are measured on."""
        return bool((self.measure.labels >= 0).all())


@dataclass(frozen=True, eq=False)
class Trigger:
    """An image-space trigger of any family.

    Attributes:
        family: name of its family.
        apply: (B, 3, S, S) in [0, 1] to the same; differentiable where the family is.
        size: in the family's unit.
        unit: the unit, for example `share of the image`.
        tensors: what it is made of, for the record.
    """

    family: str
    apply: Callable[[Tensor], Tensor]
    size: float
    unit: str
    tensors: Mapping[str, Tensor]


class TriggerFamily(Protocol):
    """A parametrised set of triggers that an inverter can search."""

    @property
    def step_size(self) -> float:
        """Adam step in the family's own parameters."""
        ...

    def start(self, side: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Random leaf parameters for images of `side` pixels."""
        ...

    def trigger(self, parameters: Mapping[str, Tensor], progress: float) -> Trigger:
        """The trigger that `parameters` stand for, within the budget at `progress` in [0, 1].

        A family may search with a looser budget early on; at 1 the budget is the final one.
        """
        ...


@dataclass(frozen=True, eq=False)
class Inversion:
    """What one search found.

    Attributes:
        trigger: best trigger of all restarts, chosen on the *select* part.
        target: class index it gathers images in.
        share: share of *select* images in that class.
        searched: whether there were enough steps, with finite losses, to say anything at all.
        converged: whether the loss had settled.
        ranking: class indices that drew images in any restart, strongest first.
    """

    trigger: Trigger
    target: int
    share: float
    searched: bool
    converged: bool
    ranking: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Search:
    """What an inverter works on.

    Attributes:
        model: the suspect.
        probe: images in three parts; an inverter touches only *optimise* and *select*.
        classes: (C, D) unit class embeddings of the classifier under test.
        target: class index of a targeted search, or None for a class-agnostic one.
        tick: called at every step; raises to stop a search whose time is up.
    """

    model: ClipModel
    probe: ProbeSet
    classes: Tensor
    target: int | None = None
    tick: Callable[[], None] = lambda: None

    def during(self, progress: Progress, stage: str, done: int, total: int) -> Search:
        """The same search, which tells `progress` about `stage` now and at every step."""
        progress(stage, done, total)
        return replace(self, tick=partial(progress, stage, done, total))


class Inverter(Protocol):
    """Looks for a trigger of a family."""

    def invert(
        self, search: Search, family: TriggerFamily, *, generator: torch.Generator
    ) -> Inversion:
        """Search; must not change weights, their `.grad`, or the global random state."""
        ...


@dataclass(frozen=True, eq=False)
class Finding:
    """A detector's conclusion together with the triggers behind it.

    Attributes:
        record: the conclusion, candidates worst first, without file names yet.
        triggers: the trigger of each candidate, in the same order.
        gaps: why parts of the search cannot be concluded from; empty when all of it can.
    """

    record: DetectorRecord
    triggers: tuple[Trigger, ...]
    gaps: str = ""


class NullBand(Protocol):
    """Statistics of the same pipeline on known-clean models of one family."""

    def compare(
        self, statistics: Mapping[str, float]
    ) -> tuple[tuple[FamilyRecord, ...], float, float]:
        """Family records, largest excess, and conformal p-value of the maximum."""
        ...


class Detector(Protocol):
    """Decides whether a checkpoint carries a backdoor."""

    def fingerprint(self) -> str:
        """Every setting that changes its statistics, defaults included, as text."""
        ...

    def detect(
        self,
        model: ClipModel,
        probe: ProbeSet,
        null: NullBand | None,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Finding:
        """Judge `model` against `null`; must not change weights or the global random state."""
        ...


class Attack(Protocol):
    """A known backdoor that the lab can plant."""

    @property
    def poison_rate(self) -> float:
        """Share of poisoned pairs in a batch, in (0, 1)."""
        ...

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """The trigger for images of `side` pixels; drawn once per victim."""
        ...


@dataclass(frozen=True, eq=False)
class PurifiedHead:
    """Class-wise prompts and the classifier they give.

    Attributes:
        classes: (C, D) unit class embeddings.
        context: (C, K, E) learned context tokens.
        losses: final value of each named loss.
        method: registered name of the purifier.
    """

    classes: Tensor
    context: Tensor
    losses: Mapping[str, float]
    method: str


class Purifier(Protocol):
    """Repairs the zero-shot classifier of one class list."""

    def purify(
        self,
        model: PromptTunable,
        probe: ProbeSet,
        triggers: Sequence[Trigger],
        target: int,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> PurifiedHead:
        """Tune so that `triggers` no longer lead to class `target`.

        Never sees *measure*, and never changes the model.
        """
        ...


@dataclass(frozen=True, eq=False)
class ExportJob:
    """What an exporter writes, and what it must prove.

    Attributes:
        model: the image tower.
        classes: (C, D) unit class embeddings to fuse.
        class_names: C names.
        head: `purified` or `zero-shot`.
        checkpoint_sha256: digest of the checkpoint, kept in the file's metadata.
        probe: images that agreement is measured on (*measure* part).
        trigger: worst inverted trigger and its target, for the ASR on the exported file.
        provider: `cuda`, `cpu`, or None for whatever is there.
        caveat: what the file must say against itself, for example limits that its head missed.
    """

    model: ClipModel
    classes: Tensor
    class_names: tuple[str, ...]
    head: str
    checkpoint_sha256: str
    probe: ProbeSet
    trigger: tuple[Trigger, int] | None = None
    provider: str | None = None
    caveat: str = ""


class Exporter(Protocol):
    """Writes a fused classifier and proves that it equals PyTorch."""

    def export(self, job: ExportJob, path: Path, *, generator: torch.Generator) -> ExportRecord:
        """Write `path` atomically; `ExportError` and no file if parity fails."""
        ...


class Renderer(Protocol):
    """Turns a record into text. Needs no torch."""

    def render(self, record: AuditRecord, folder: Path) -> str:
        """Render `record`, whose relative file names are found in `folder`."""
        ...
