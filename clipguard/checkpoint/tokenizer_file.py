"""The tokenizer that lies beside a model: its file, read as text and nothing more."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipguard.checkpoint.configs import read_json
from clipguard.files import read_given

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
MAX_BYTES = 64 * 2**20
CANONICAL = ("SiglipTokenizer", "SiglipTokenizerFast")
"""Classes that lower texts and take punctuation off before their file comes into play."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json.

    Attributes:
        content: its text.
        sha256: digest of that.
        pad: token behind the end of a text, empty if nothing says it.
        canonical: whether texts are lowered and lose their punctuation first.
    """

    content: str
    sha256: str
    pad: str
    canonical: bool


def needs_own(text: Mapping[str, Any], siglip: bool) -> bool:
    """Whether a text tower reads other tokens than those of CLIP's tokenizer.

    Args:
        text: `text_cfg` of its config.
        siglip: see `ConfigFile.siglip`.
    """
    return siglip or bool(text.get("hf_tokenizer_name"))


def tokenizer_in(folder: Path, text: Mapping[str, Any]) -> TokenizerFile | None:
    """The tokenizer in the folder of a model, None if there is none.

    Args:
        folder: where to look.
        text: `text_cfg` of the model's config.

    Raises:
        UsageError: it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    content = read_given(path, MAX_BYTES)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    pad = settings.get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    how = text.get("tokenizer_kwargs")
    clean = how.get("clean") if isinstance(how, dict) else None
    canonical = settings.get("tokenizer_class") in CANONICAL or clean == "canonicalize"
    digest = hashlib.sha256(content.encode()).hexdigest()
    return TokenizerFile(content, digest, pad if isinstance(pad, str) else "", canonical)
