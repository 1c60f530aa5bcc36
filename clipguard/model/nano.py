"""A bundled network, or what was made of it, behind the usual interface."""

from __future__ import annotations

from open_clip.model import CLIP

from clipguard.bundled.nano import BASES, nano_tokenizer
from clipguard.checkpoint.architectures import architecture_named
from clipguard.model.open_clip import OpenClipModel


def nano_model(network: CLIP, base: str) -> OpenClipModel:
    """`network`, which has the shapes of the bundled model `base`, as a model.

    Raises:
        KeyError: no such bundled model.
    """
    return OpenClipModel(network, architecture_named(BASES[base]), nano_tokenizer(network))
