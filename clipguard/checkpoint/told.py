"""What tells an architecture beside its shapes: a config, a name inside the file, its layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clipguard.checkpoint.architectures import (
    Architecture,
    Shapes,
    architecture_from_file,
    architecture_named,
    known_configs,
    shape_difference,
)
from clipguard.checkpoint.fitting import Told, at_file_size
from clipguard.checkpoint.formats import is_config
from clipguard.checkpoint.gather import Gathered
from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

OPEN_CLIP, HUGGING_FACE = "open_clip_config.json", "config.json"


def fitting(architecture: Architecture, shapes: Shapes) -> Architecture:
    """`architecture` at the image size of the file, if that is all in which they differ.

    Raises:
        UsageError: the shapes do not fit.
    """
    sized = at_file_size(architecture, shapes)
    found = shape_difference(sized, shapes)
    if found:
        raise UsageError(
            f"the weights do not fit {architecture.name}: {found}; choose another --arch"
        )
    return sized


def told_architecture(found: Gathered, shapes: Shapes) -> Told | None:
    """The architecture that the file or what lies beside it names; None if nothing does.

    Raises:
        UsageError: the config of a folder cannot be used, or does not fit its weights.
    """
    config = config_beside(found)
    if config is not None:
        try:
            chosen = fitting(architecture_from_file(config), shapes)
            if found.path.is_dir():
                return Told(chosen, "config")
            told = f"CG110 architecture and preprocessing are those of {config.name} beside it"
            return Told(replace(chosen, notes=(*chosen.notes, told)), "config")
        except UsageError:
            if found.path.is_dir() or found.format:
                raise  # a config that only lies beside a file may belong to another
    return _named_inside(found, shapes) or _of_openai(found, shapes)


def config_beside(found: Gathered) -> Path | None:
    """The config that belongs to a model: the one in the format of its weights first."""
    names = [OPEN_CLIP, HUGGING_FACE]
    order = reversed(names) if found.format else names
    for name in order:
        for place in found.places:
            path = place / name
            if path.is_file() and (name == OPEN_CLIP or is_config(path)):
                return path
    return None


def _named_inside(found: Gathered, shapes: Shapes) -> Told | None:
    """An open_clip checkpoint has a free text that often is the name of its architecture."""
    if found.says not in known_configs():
        return None
    try:
        chosen = fitting(architecture_named(found.says), shapes)
    except UsageError:
        return None
    told = f"CG110 the checkpoint calls itself {safe_text(found.says)}, and its shapes fit"
    return Told(replace(chosen, notes=(*chosen.notes, told)), "name")


def _of_openai(found: Gathered, shapes: Shapes) -> Told | None:
    """All that OpenAI published as TorchScript archives compute with QuickGELU."""
    if not found.scripted:
        return None
    names = [name for name, config in known_configs().items() if config.get("quick_gelu")]
    known = [architecture_named(name) for name in names]
    resized = [at_file_size(architecture, shapes) for architecture in known]
    for chosen in (*known, *resized):  # one of its own size goes first
        if shape_difference(chosen, shapes) is None:
            told = (
                "CG110 a TorchScript archive as OpenAI's, which compute with QuickGELU: read as "
                f"{chosen.name}; --arch changes it"
            )
            return Told(replace(chosen, notes=(*chosen.notes, told)), "layout")
    return None
