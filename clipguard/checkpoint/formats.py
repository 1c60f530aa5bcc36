"""Formats of other libraries: which one a file has, and what its names and its config mean."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from clipguard.checkpoint import hf_clip, hf_siglip
from clipguard.checkpoint.configs import ConfigFile, read_config, read_json
from clipguard.checkpoint.hugging_face import Format
from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

FORMATS = (hf_clip.FORMAT, hf_siglip.FORMAT)


def is_config(path: Path) -> bool:
    """Whether a config.json is one that `config_from` reads; there are many others."""
    try:
        raw = read_json(path)
    except UsageError:
        return False
    known = [form.model_type for form in FORMATS]
    return raw.get("model_type") in known or {"embed_dim", "vision_cfg"} <= raw.keys()


def config_from(path: Path) -> ConfigFile:
    """Read the config of a model: open_clip's, or one of transformers.

    Raises:
        UsageError: no config, or values that make no sense; the message starts with its name.
    """
    raw = read_json(path)
    try:
        for form in FORMATS:
            if raw.get("model_type") == form.model_type:
                return replace(form.read_config(raw, path.parent), kind=form.name)
        return read_config(raw)
    except UsageError as error:
        raise UsageError(f"{safe_text(path.name)}: {error}") from error


def open_clip_names(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Weights under open_clip's names, and the format that they had (empty for open_clip's).

    Args:
        state: name to tensor; emptied where the names change.

    Raises:
        RefusedError: two tensors would get one name (CG107).
    """
    form = format_of(state)
    if form is None:
        return dict(state), ""
    return form.open_clip_names(state), f"transformers' {form.name}"


def format_of(names: Container[str]) -> Format | None:
    """The model of transformers that has tensors of these names, None for open_clip's."""
    return next((form for form in FORMATS if form.mark in names), None)
