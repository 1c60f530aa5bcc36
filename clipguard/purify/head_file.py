"""Purified heads on disk: class-wise prompts, class embeddings, and what they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipguard.checkpoint.inspection import inspect_file
from clipguard.errors import RefusedError, UsageError
from clipguard.probe.sets import ProbeSet
from clipguard.purify.roles import PurifiedHead
from clipguard.record import HEAD_SCOPE, CheckpointRecord
from clipguard.text_safety import safe_text

SCHEMA_VERSION = "clipguard.head/1"
CAVEAT = 1000


class LoadedHead(NamedTuple):
    """A purified head from a file.

    Attributes:
        classes: (C, D) unit class embeddings.
        names: C class names.
        caveat: what the audit that made it had to say against it.
    """

    classes: Tensor
    names: tuple[str, ...]
    caveat: str


def save_head(
    head: PurifiedHead,
    probe: ProbeSet,
    checkpoint: CheckpointRecord,
    path: Path,
    *,
    caveat: str = "",
) -> None:
    """Write prompts and class embeddings with everything needed to know what they are for.

    Args:
        head: the head.
        probe: for the class names.
        checkpoint: the model it was tuned on; it fits no other.
        path: safetensors file.
        caveat: what every file that carries this head must say against it.
    """
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "method": head.method,
        "checkpoint_sha256": checkpoint.sha256,
        "class_names": probe.class_names,
        "template": "[SOS] context name . [EOS]",
        "scope": HEAD_SCOPE,
        "caveat": caveat,
    }
    tensors = {"context": head.context.cpu(), "classes": head.classes.cpu()}
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        path,
        # One key: safetensors writes several in random order, and bytes must repeat.
        metadata={"clipguard": json.dumps(metadata)},
    )


def load_head(path: Path, checkpoint_sha256: str) -> LoadedHead:
    """Read a purified head.

    Args:
        path: a file that `save_head` wrote, perhaps changed by a stranger since.
        checkpoint_sha256: digest of the checkpoint it will be fused with.

    Raises:
        UsageError: missing, or made for another checkpoint.
        RefusedError: not a head file.
    """
    shown = safe_text(path.name)
    inspection = inspect_file(path)
    if not inspection.container.startswith("safetensors"):
        raise RefusedError(f"{shown}: expected a head.safetensors, got {inspection.container}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["clipguard"])
            names = tuple(_strings(metadata["class_names"]))
            made_for = str(metadata["checkpoint_sha256"])
            caveat = safe_text(metadata.get("caveat", ""), CAVEAT)
            classes = file.get_tensor("classes").float()
    except Exception as error:  # hostile bytes
        raise RefusedError(f"{shown}: not a purified head; make one with `scan`") from error
    if made_for != checkpoint_sha256:
        raise UsageError(
            f"{shown} was tuned on another checkpoint; use the head of this one's scan"
        )
    if metadata.get("schema_version") != SCHEMA_VERSION:
        raise RefusedError(f"{shown}: not a {SCHEMA_VERSION} file; make one with this version")
    norms = classes.norm(dim=-1) if classes.ndim == 2 else torch.zeros(1)
    distinct = len(set(names)) == len(names) == len(classes) > 0
    if not distinct or not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        raise RefusedError(f"{shown}: expected one unit row per distinct class name")
    return LoadedHead(classes, names, caveat)


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("expected a list of strings")
    return value
