"""The tokenizer that lies beside a model: its file, read as text and nothing more."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipguard.checkpoint.configs import read_json
from clipguard.checkpoint.sentencepiece import END, as_tokenizer_json
from clipguard.checkpoint.source import opened
from clipguard.errors import UsageError

FILE, PIECES, SETTINGS = "tokenizer.json", "spiece.model", "tokenizer_config.json"
MAX_BYTES = 64 * 2**20
CANONICAL = ("SiglipTokenizer", "SiglipTokenizerFast")
"""Classes that lower texts and take punctuation off before their file comes into play."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json, or a spiece.model told as one.

    Attributes:
        name: of the file.
        content: text of the tokenizer.json.
        sha256: digest of the file.
        pad: token behind the end of a text, empty if nothing says it.
        canonical: whether texts are lowered and lose their punctuation first.
    """

    name: str
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
    path = next((folder / name for name in (FILE, PIECES) if (folder / name).is_file()), None)
    if path is None:
        return None
    with opened(path) as source:
        if source.size > MAX_BYTES:
            raise UsageError(f"{path.name}: expected at most {MAX_BYTES} bytes, got {source.size}")
        data = source.read_at(0, source.size)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    pad = settings.get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    how = text.get("tokenizer_kwargs")
    clean = how.get("clean") if isinstance(how, dict) else None
    canonical = settings.get("tokenizer_class") in CANONICAL or clean == "canonicalize"
    pad, digest = pad if isinstance(pad, str) else "", hashlib.sha256(data).hexdigest()
    if path.name == PIECES:  # what SigLIP's tokenizer does where nothing else is said
        canonical = canonical or "tokenizer_class" not in settings
        return TokenizerFile(path.name, as_tokenizer_json(data), digest, pad or END, canonical)
    try:
        return TokenizerFile(path.name, data.decode("utf-8"), digest, pad, canonical)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name}: not UTF-8 text at byte {error.start}") from error
