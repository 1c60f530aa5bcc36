"""What a CLIP is to the rest of the program: image tower, text tower, prompts.

Letters: B batch, N images, C classes, D embedding, S image side, K context tokens, E token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from clipguard.errors import RefusedError


class ClipModel(Protocol):
    """A CLIP with frozen weights, in evaluation mode, seen through raw pixels."""

    @property
    def image_size(self) -> int:
        """S, the side of a square input image, in pixels."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def logit_scale(self) -> float:
        """exp(logit_scale), the factor between cosines and logits."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Map (B, 3, S, S) in [0, 1] to (B, D) of unit norm; differentiable in `images`."""

    def image_tower(self) -> nn.Module:
        """The module behind `encode_image`, normalisation included, for exporters."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Map C texts to (C, D) of unit norm."""


class PromptTunable(ClipModel, Protocol):
    """A `ClipModel` whose text tower also reads learnable context tokens."""

    def embed_tokens(self, text: str) -> Tensor:
        """(K, E) token embeddings of `text`, without start and end marks."""

    def encode_context(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """Encode the sequence [SOS] context_c name_c . [EOS] for every class.

        Args:
            context: (C, K, E) token embeddings; the result is differentiable in them.
            class_names: C names.

        Returns:
            (C, D) of unit norm. Prompts are cut at the last end-of-text, which is exact for a
            causal tower.
        """


@runtime_checkable
class Repairable(PromptTunable, Protocol):
    """A `PromptTunable` whose weights can be changed in a copy and written to a file."""

    def copied(self) -> Repairable:
        """The same model with weights of its own."""

    def state(self) -> Mapping[str, Tensor]:
        """All its weights, under the names that its library loads them by."""


class TokenReader(PromptTunable, Protocol):
    """A `PromptTunable` whose vocabulary is known, so that every token of it can be tried."""

    def vocabulary(self) -> Tensor:
        """(V,) ids of all tokens, start and end marks left out."""

    def token_ids(self, text: str) -> list[int]:
        """What `text` is read as, without start and end marks."""

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of `ids`; a token that ends a word has a space behind it."""

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Encode [SOS] ids [EOS] for (B, L) token ids: (B, D) of unit norm."""


def require_unit(rows: Tensor) -> Tensor:
    """`rows`, (N, D), if all are of unit norm; those of a tower that overflows are zero or NaN.

    Raises:
        RefusedError: they are not.
    """
    if not (rows.norm(dim=1) > 0.5).all():
        raise RefusedError(
            "CG109 the embeddings are not finite: the weights are too large to compute with"
        )
    return rows
