"""Checkpoints that are named and not given: `hf-hub:OWNER/NAME` and open_clip's `ARCH:TAG`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import open_clip
from open_clip import pretrained

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

HUB = "hf-hub:"
BESIDE = (
    *("open_clip_config.json", "config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "spiece.model"),
)
"""What tells architecture, preprocessing and tokenizer."""
WEIGHTS = (
    ("open_clip_model.safetensors",),
    ("open_clip_pytorch_model.bin",),
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
"""Open_clip's names, then those of transformers: the first that a repository has are fetched."""


class Place(NamedTuple):
    """Where a checkpoint lies, and its architecture if the name told it."""

    path: Path
    arch: str | None


def is_remote(name: Path) -> bool:
    """Whether `name` is none of a file or folder here, but one that could be fetched."""
    text = str(name)
    try:
        here = name.exists()
    except OSError:  # no file system takes such a name
        here = False
    known = text.startswith(HUB) or text.partition(":")[0] in open_clip.list_models()
    return ":" in text and known and not here


def fetched(name: Path) -> Place:
    """The checkpoint that `name` stands for, downloaded to the cache of its hub if need be.

    What comes from a hub is opened as warily as any file.

    Args:
        name: path, `hf-hub:OWNER/NAME`, `hf-hub:OWNER/NAME@REVISION`, or `ARCH:TAG`.

    Raises:
        UsageError: there is no such checkpoint, or it cannot be fetched from here.
    """
    if not is_remote(name):
        return Place(name, None)
    text = str(name)
    try:
        if text.startswith(HUB):
            return Place(_from_hub(text.removeprefix(HUB)), None)
        return _of_open_clip(*text.split(":", 1))
    except UsageError:
        raise
    except Exception as error:  # a hub's client raises whatever its network layers raise
        told = safe_text(str(error).partition("\n")[0] or type(error).__name__, 200)
        raise UsageError(
            f"cannot fetch {safe_text(text)}: {told}; download it and give the file"
        ) from error


def _from_hub(repository: str) -> Path:
    owner, _, revision = repository.partition("@")
    for names in WEIGHTS:
        folder = Path(
            huggingface_hub.snapshot_download(
                owner, revision=revision or None, allow_patterns=[*BESIDE, *names]
            )
        )
        if (folder / names[0]).is_file():
            return folder
    known = ", ".join(names[0] for names in WEIGHTS)
    raise UsageError(f"{HUB}{safe_text(repository)} holds none of {known}")


def _of_open_clip(arch: str, tag: str) -> Place:
    config = pretrained.get_pretrained_cfg(arch, tag)
    if not config:
        known = ", ".join(pretrained.list_pretrained_tags_by_model(arch))
        raise UsageError(f"{arch} has no weights named {safe_text(tag)} (known: {known})")
    quick = f"{arch}-quickgelu"
    if config.get("quick_gelu") and quick in open_clip.list_models():
        arch = quick  # else the tower would run with another activation
    owner, _, rest = str(config.get("hf_hub", "")).rstrip("/").partition("/")
    repository, _, file = rest.partition("/")
    if file:
        return Place(Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", file)), arch)
    if repository:
        return Place(_from_hub(f"{owner}/{repository}"), arch)
    return Place(Path(pretrained.download_pretrained(config)), arch)
