"""The image trigger of attacks that leave images alone."""

from __future__ import annotations

import torch

from clipguard.search.roles import Trigger


def no_trigger(family: str, word: str) -> Trigger:
    """The identity, of size 0; `word`, which takes the trigger's place, is kept as UTF-8."""
    kept = {"word": torch.tensor(list(word.encode()), dtype=torch.uint8)}
    return Trigger(family, lambda images: images, 0.0, "nothing in the image", kept)
