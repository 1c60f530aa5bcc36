"""Which tokenizer a text tower has: CLIP's, one that open_clip names, or the model's own file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import get_clean_fn
from torch import Tensor

from clipguard.checkpoint.load import Checkpoint
from clipguard.checkpoint.tokenizer_file import TokenizerFile
from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

TOKENIZER_KEYS = ("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "context_length")
USUAL_PADS = ("<pad>", "</s>")


class OwnTokenizer:
    """Texts to (N, L) token ids, cut and padded to the context of the text tower.

    Its file is run by the library that reads it; no code of the model is.
    """

    def __init__(self, file: TokenizerFile, *, length: int, vocabulary: int) -> None:
        """Read the file.

        Args:
            file: of the model's folder.
            length: L, tokens that the text tower reads.
            vocabulary: tokens that it knows.

        Raises:
            UsageError: the library that reads it is missing, it is none, or makes other tokens.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise UsageError(
                f"the model's own {file.name} needs the package tokenizers; pip install tokenizers"
            ) from error
        try:
            self._tokenizer = Tokenizer.from_str(file.content)
            known = self._tokenizer.get_vocab(with_added_tokens=True)
            pad = file.pad or next((pad for pad in USUAL_PADS if pad in known), "")
            if pad not in known or max(known.values()) >= vocabulary:
                raise UsageError(
                    f"{file.name} does not fit the text tower: it has no token for padding, or "
                    f"knows more than {vocabulary} tokens"
                )
            self._tokenizer.enable_truncation(max_length=length)
            self._tokenizer.enable_padding(length=length, pad_id=known[pad], pad_token=pad)
        except (KeyboardInterrupt, SystemExit, UsageError):
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise UsageError(f"{file.name}: not a tokenizer ({safe_text(error)})") from error
        self._clean = get_clean_fn("canonicalize") if file.canonical else str

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, L) ids of `texts`."""
        encoded = self._tokenizer.encode_batch([self._clean(text) for text in texts])
        return torch.tensor([text.ids for text in encoded], dtype=torch.long)


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """Makes (N, L) token ids of texts.

    Raises:
        UsageError: it is not available here, or does not fit.
    """
    architecture = checkpoint.architecture
    text = architecture.config["text_cfg"]
    if checkpoint.tokenizer is not None:
        length, known = text["context_length"], text["vocab_size"]
        return OwnTokenizer(checkpoint.tokenizer, length=length, vocabulary=known)
    if architecture.siglip:
        raise UsageError(
            "a SigLIP reads texts with a tokenizer of its own; put the model's tokenizer.json or "
            "spiece.model, and its tokenizer_config.json, beside its weights"
        )
    if not text.get("hf_tokenizer_name"):
        tokenizer = open_clip.SimpleTokenizer(context_length=text["context_length"])
        if tokenizer.vocab_size > text["vocab_size"]:
            raise UsageError(
                f"{architecture.name} knows {text['vocab_size']} tokens, CLIP's tokenizer makes "
                f"{tokenizer.vocab_size}; no tokenizer is known for it"
            )
        return tokenizer
    # A config from outside must not choose what is fetched, so only shipped ones count.
    for name in open_clip.list_models():
        shipped = open_clip.get_model_config(name)["text_cfg"]
        if all(shipped.get(key) == text.get(key) for key in TOKENIZER_KEYS):
            try:
                return open_clip.get_tokenizer(name)
            except (ImportError, OSError) as error:
                raise UsageError(
                    f"{architecture.name} needs the tokenizer {text['hf_tokenizer_name']}: "
                    f"install transformers and fetch it once ({safe_text(error)})"
                ) from error
    raise UsageError(f"no tokenizer named {safe_text(text['hf_tokenizer_name'])} is known")
