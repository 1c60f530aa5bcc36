"""A tokenizer from the folder of a model, run by the library that reads its file; no code of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.tokenizer import get_clean_fn
from torch import Tensor

from clipguard.checkpoint.tokenizer_file import FILE, TokenizerFile
from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

USUAL_PADS = ("<pad>", "</s>")


class OwnTokenizer:
    """Texts to (N, L) token ids, cut and padded to the context of the text tower."""

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
                f"the model's own {FILE} needs the package tokenizers; pip install tokenizers"
            ) from error
        try:
            self._tokenizer = Tokenizer.from_str(file.content)
            known = self._tokenizer.get_vocab(with_added_tokens=True)
            pad = file.pad or next((pad for pad in USUAL_PADS if pad in known), "")
            if pad not in known or max(known.values()) >= vocabulary:
                raise UsageError(
                    f"{FILE} does not fit the text tower: it has no token for padding, or knows "
                    f"more than {vocabulary} tokens"
                )
            self._tokenizer.enable_truncation(max_length=length)
            self._tokenizer.enable_padding(length=length, pad_id=known[pad], pad_token=pad)
        except (KeyboardInterrupt, SystemExit, UsageError):
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise UsageError(f"{FILE}: not a tokenizer ({safe_text(error)})") from error
        self._clean = get_clean_fn("canonicalize") if file.canonical else str

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, L) ids of `texts`."""
        encoded = self._tokenizer.encode_batch([self._clean(text) for text in texts])
        return torch.tensor([text.ids for text in encoded], dtype=torch.long)
