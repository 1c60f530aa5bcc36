"""Path to verified weights: inspect, load without running code, check, name the architecture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipguard.checkpoint.architectures import (
    Architecture,
    Shapes,
    architecture_from_file,
    architecture_named,
    infer_architecture,
    known_configs,
    network_of,
    shape_difference,
    shapes_of,
)
from clipguard.checkpoint.reading import read_weights
from clipguard.checkpoint.sandbox import AUTO, Guard
from clipguard.errors import UsageError
from clipguard.record import CheckpointRecord
from clipguard.text_safety import safe_text

PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights that passed every check, and what they are.

    Attributes:
        record: identity for the audit record.
        state: key to tensor on the CPU, floating point as float32, keys as open_clip names
            them and in the order of the network's layers, whatever the file's was.
        architecture: the network the weights belong to.
    """

    record: CheckpointRecord
    state: dict[str, Tensor]
    architecture: Architecture


def load_checkpoint(path: Path, *, arch: str | None = None, guard: Guard = AUTO) -> Checkpoint:
    """Load `path` without running anything in it.

    Args:
        path: weights file, or a folder with one and perhaps an `open_clip_config.json`.
        arch: architecture name or config JSON; None to use the folder's config or the shapes.
        guard: how to open the file.

    Raises:
        UsageError: no such path, or no one architecture that fits.
        RefusedError: anything but plain, finite, honestly sized tensors under printable names;
            the message starts with the file's name.
        BudgetSpentError: it took longer than the guard's deadline allows.
    """
    read = read_weights(path, guard)
    inspection, state = read.inspection, _clean(read.tensors)
    try:
        architecture = _architecture(path, arch, shapes_of(state))
    except UsageError as error:
        raise UsageError(f"{safe_text(inspection.weights_file.name)}: {error}") from error
    with torch.device("meta"):
        network = network_of(architecture)
    record = CheckpointRecord(
        name=safe_text(path.name or path.absolute().name),
        sha256=inspection.sha256,
        size_bytes=inspection.size_bytes,
        container=f"{read.form} ({inspection.container})",
        architecture=architecture.name,
        image_size=architecture.image_size,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        notes=(*inspection.notes, *read.notes, *architecture.notes),
        sandbox=read.sandbox,
    )
    keys = [*network.state_dict()]
    state |= {key: torch.tensor(0) for key in keys if key.endswith("num_batches_tracked")}
    return Checkpoint(record, {key: state[key] for key in keys if key in state}, architecture)


def _clean(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys as open_clip names them."""
    state = dict(found)
    for prefix in PREFIXES * 2:  # either may be the outer one
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: tensor for key, tensor in state.items()}
    for key in ("logit_scale", "logit_bias"):
        if key in state and state[key].numel() == 1:
            state[key] = state[key].reshape(())
    return state


def _architecture(path: Path, arch: str | None, shapes: Shapes) -> Architecture:
    config = path / "open_clip_config.json"
    if arch is not None:
        is_file = arch not in known_configs() and Path(arch).is_file()
        chosen = architecture_from_file(Path(arch)) if is_file else architecture_named(arch)
    elif config.is_file():
        chosen = architecture_from_file(config)
    else:
        return infer_architecture(shapes)
    found = shape_difference(chosen, shapes)
    if found:
        raise UsageError(f"the weights do not fit {chosen.name}: {found}; choose another --arch")
    return chosen
