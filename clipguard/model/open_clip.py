"""`ClipModel` over an open_clip network: raw pixels in, unit vectors out, weights frozen."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional

from clipguard.checkpoint.architectures import Architecture
from clipguard.checkpoint.configs import Preprocess
from clipguard.checkpoint.load import Checkpoint
from clipguard.errors import UsageError
from clipguard.model.network import network_with
from clipguard.model.tokenizers import tokenizer_of
from clipguard.text_safety import safe_text

TEXT_BATCH = 256
CACHED_NAMES = 2**16


class ImageTower(nn.Module):
    """(B, 3, S, S) in [0, 1] to (B, D) of unit norm; normalisation is part of the module."""

    def __init__(self, visual: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.visual = visual
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images`."""
        features = self.visual((images - self.mean) / self.std)
        if isinstance(features, tuple):  # towers that also return their patch tokens
            features = features[0]
        return functional.normalize(features, dim=-1)


class OpenClipModel:
    """See `TokenReader`. Made by `build_model`."""

    def __init__(self, network: nn.Module, architecture: Architecture, tokenizer: Any) -> None:
        self._network = cast(Any, network)
        self.state = self._network.state_dict  # see `Repairable.state`
        self._architecture = architecture
        self._tokenizer = tokenizer
        preprocess = architecture.preprocess
        self._tower = ImageTower(self._network.visual, preprocess.mean, preprocess.std).eval()
        self._tower.to(self.device)
        self._logit_scale = float(self._network.logit_scale.detach().exp())
        self._pool = _end_of_text_pool(self._network)
        self._name_ids = lru_cache(maxsize=CACHED_NAMES)(self._encode_name)

    def copied(self) -> OpenClipModel:
        """The same model with weights of its own."""
        return OpenClipModel(copy.deepcopy(self._network), self._architecture, self._tokenizer)

    @property
    def image_size(self) -> int:
        """See `ClipModel.image_size`."""
        return self._architecture.image_size

    @property
    def preprocess(self) -> Preprocess:
        """How a file becomes its input image."""
        return self._architecture.preprocess

    @property
    def device(self) -> torch.device:
        """See `ClipModel.device`."""
        return cast(torch.device, self._network.logit_scale.device)

    @property
    def logit_scale(self) -> float:
        """See `ClipModel.logit_scale`."""
        return self._logit_scale

    def image_tower(self) -> nn.Module:
        """See `ClipModel.image_tower`."""
        return self._tower

    def encode_image(self, images: Tensor) -> Tensor:
        """See `ClipModel.encode_image`.

        Raises:
            ValueError: images of another shape.
        """
        side = self.image_size
        if images.shape[1:] != (3, side, side):
            raise ValueError(f"expected (B, 3, {side}, {side}), got {tuple(images.shape)}")
        return cast(Tensor, self._tower(images))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See `ClipModel.encode_text`. Texts longer than the context are cut, as open_clip does."""
        tokens = self._tokenizer(list(texts)).to(self.device)
        return torch.cat([self._encode_tokens(part) for part in tokens.split(TEXT_BATCH)])

    def embed_tokens(self, text: str) -> Tensor:
        """See `PromptTunable.embed_tokens`.

        Raises:
            UsageError: this text tower takes no context tokens.
        """
        self._require_context()
        ids = torch.tensor(self._tokenizer.encode(text), dtype=torch.long, device=self.device)
        with torch.no_grad():
            return cast(Tensor, self._text.token_embedding(ids))

    def encode_context(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """See `PromptTunable.encode_context`.

        Raises:
            UsageError: this text tower takes no context tokens, or a name is too long.
            ValueError: not one context per class name.
        """
        self._require_context()
        if context.ndim != 3 or len(context) != len(class_names):
            raise ValueError(
                f"expected context of shape ({len(class_names)}, K, E), got {tuple(context.shape)}"
            )
        names = [self._name_ids(name) for name in class_names]
        length, room = context.shape[1], self._text.context_length
        for name, ids in zip(class_names, names, strict=True):
            if 1 + length + len(ids) > room:
                raise UsageError(
                    f"class name {safe_text(name)!r} has {len(ids) - 1} tokens with its full stop; "
                    f"with {length} context tokens at most {room - 2 - length} fit; shorten it"
                )
        longest = max(map(len, names))
        padded = [[*ids, *[0] * (longest - len(ids))] for ids in names]
        behind = self._text.token_embedding(torch.tensor(padded, device=self.device))
        start = self._text.token_embedding(
            torch.full((len(names), 1), self._tokenizer.sot_token_id, device=self.device)
        )
        ends = [1 + length + ids.index(self._tokenizer.eot_token_id) for ids in names]
        sequence = torch.cat([start, context, behind], dim=1)
        return self._read(sequence, torch.tensor(ends, device=self.device))

    def vocabulary(self) -> Tensor:
        """See `TokenReader.vocabulary`.

        Raises:
            UsageError: the tokens of this text tower are not those of CLIP's tokenizer.
        """
        self._require_context()
        marks = torch.tensor(self._tokenizer.all_special_ids)
        ids = torch.arange(self._tokenizer.vocab_size)
        return ids[~torch.isin(ids, marks)]

    def token_ids(self, text: str) -> list[int]:
        """See `TokenReader.token_ids`."""
        return [int(i) for i in self._tokenizer.encode(text)]

    def text_of(self, ids: Sequence[int]) -> str:
        """See `TokenReader.text_of`."""
        return str(self._tokenizer.decode(list(ids)))

    @torch.no_grad()
    def encode_ids(self, ids: Tensor) -> Tensor:
        """See `TokenReader.encode_ids`.

        Raises:
            UsageError: another tokenizer than CLIP's, or more tokens than the tower reads.
        """
        self._require_context()
        if ids.shape[1] + 2 > self._text.context_length:
            room = self._text.context_length - 2
            raise UsageError(f"got {ids.shape[1]} tokens; the text tower reads at most {room}")
        tokens = functional.pad(ids.cpu(), (1, 1), value=self._tokenizer.eot_token_id)
        tokens[:, 0] = self._tokenizer.sot_token_id
        ends = torch.full((len(ids),), tokens.shape[1] - 1, device=self.device)
        return torch.cat(
            [
                self._read(self._text.token_embedding(part.to(self.device)), ends[: len(part)])
                for part in torch.split(tokens, TEXT_BATCH)
            ]
        )

    @property
    def _text(self) -> Any:
        return getattr(self._network, "text", self._network)

    def _encode_name(self, name: str) -> list[int]:
        return [*self._tokenizer.encode(f"{name}."), self._tokenizer.eot_token_id]

    def _require_context(self) -> None:
        if self._pool is None or not hasattr(self._tokenizer, "encode"):
            raise UsageError(
                f"the text tower of {self._architecture.name} takes no context tokens: "
                "prompt tuning needs a causal tower that is read at its end-of-text mark; "
                "--purifier realign needs no prompts"
            )

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        if self._pool is None:
            return cast(Tensor, self._network.encode_text(tokens, normalize=True))
        ends = self._pool(tokens)
        length = int(ends.max()) + 1
        return self._read(self._text.token_embedding(tokens[:, :length]), ends)

    def _read(self, sequence: Tensor, ends: Tensor) -> Tensor:
        """Run the causal text tower on (B, L, E) embeddings and read it at positions `ends`.

        What stands behind the last end cannot reach it, so the sequence may be cut there.
        """
        text, length = self._text, sequence.shape[1]
        x = sequence + text.positional_embedding[:length]
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        x = text.ln_final(x)[torch.arange(len(x), device=x.device), ends]
        projection = text.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        return functional.normalize(x, dim=-1)


def build_model(checkpoint: Checkpoint, device: torch.device) -> OpenClipModel:
    """The model of `checkpoint` on `device`; on the CPU it shares weights with the checkpoint.

    Raises:
        UsageError: its tokenizer is not available here.
    """
    architecture = checkpoint.architecture
    tokenizer = tokenizer_of(checkpoint)
    network = network_with(checkpoint)
    network.eval().requires_grad_(False).to(device)
    if device.type == "cpu" and isinstance(network.visual, ModifiedResNet | TimmModel):
        # convolutions are faster this way; only weights change their layout, never values
        network.visual.to(memory_format=torch.channels_last)
    return OpenClipModel(network, architecture, tokenizer)


def _end_of_text_pool(network: Any) -> Callable[[Tensor], Tensor] | None:
    """Where the network itself reads (B, L) token ids; None unless it is causal and reads there."""
    text = getattr(network, "text", network)
    if text is not network and not isinstance(text, TextTransformer):
        return None
    if text.attn_mask is None or getattr(text, "cls_emb", None) is not None:
        return None
    pool = network.text_pool_type if text is network else text.pool_type
    end = network.text_eos_id if text is network else text.eos_id
    if pool == "argmax":
        return lambda tokens: tokens.argmax(dim=-1)
    if pool == "eos":
        return lambda tokens: (tokens == end).int().argmax(dim=-1)
    return None


def device_of(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda[:N]` as a torch device.

    Raises:
        UsageError: unknown, or no such GPU.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise UsageError(f"no device named {safe_text(name)!r}; use auto, cpu, cuda or cuda:N")
    if name != "cpu" and int(match.group(1) or 0) >= gpus:
        raise UsageError(f"{name} was asked for, this machine has {gpus} usable GPUs; use cpu")
    return torch.device(name)
