"""A repair on disk: prompts and class embeddings, the repaired weights, and what fits what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipguard.checkpoint.inspection import inspect_file, sha256_of
from clipguard.errors import RefusedError, UsageError
from clipguard.model.roles import Repairable
from clipguard.probe.sets import ProbeSet
from clipguard.purify.roles import PurifiedHead
from clipguard.record import HEAD_SCOPE, TOWER_SCOPE
from clipguard.text_safety import safe_text

HEAD_FILE, TOWER_FILE = "head.safetensors", "repaired.safetensors"
SCHEMA_VERSION = "clipguard.head/1"
CAVEAT = 1000


class Weights(NamedTuple):
    """Which weights a head belongs to.

    Attributes:
        audited: digest of the audited checkpoint.
        repaired: digest of the file with its repaired image tower, if the head was tuned on that.
    """

    audited: str
    repaired: str | None = None


class LoadedHead(NamedTuple):
    """A purified head from a file.

    Attributes:
        classes: (C, D) unit class embeddings.
        names: C class names.
        caveat: what the audit that made it had to say against it.
        repaired_from: digest of the checkpoint whose tower was repaired for it; empty if none was.
    """

    classes: Tensor
    names: tuple[str, ...]
    caveat: str
    repaired_from: str = ""


def save_tower(model: Repairable, path: Path, *, architecture: str, audited: str) -> str:
    """Write all weights of a model with a repaired image tower, as its library names them.

    Args:
        model: the repaired one.
        path: safetensors file.
        architecture: its name; shapes alone do not tell GELU from QuickGELU.
        audited: digest of the checkpoint that was repaired.

    Returns:
        Digest of the file.
    """
    state = {key: value.cpu().contiguous().clone() for key, value in model.state().items()}
    told = {"architecture": architecture, "repaired_from": audited, "scope": TOWER_SCOPE}
    save_file(state, path, metadata={"clipguard": json.dumps(told, sort_keys=True)})
    return sha256_of(path)


def save_head(
    head: PurifiedHead,
    probe: ProbeSet,
    weights: Weights,
    path: Path,
    *,
    caveat: str = "",
) -> None:
    """Write prompts and class embeddings with everything needed to know what they are for.

    Args:
        head: the head.
        probe: for the class names.
        weights: those it was tuned on; it fits no other.
        path: safetensors file.
        caveat: what every file that carries this head must say against it.
    """
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "method": f"realign+{head.method}" if weights.repaired else head.method,
        "checkpoint_sha256": weights.repaired or weights.audited,
        "repaired_from": weights.audited if weights.repaired else "",
        "class_names": probe.class_names,
        "template": "[SOS] context name . [EOS]",
        "scope": TOWER_SCOPE if weights.repaired else HEAD_SCOPE,
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
            repaired_from = safe_text(metadata.get("repaired_from", ""))
            classes = file.get_tensor("classes").float()
    except Exception as error:  # hostile bytes
        raise RefusedError(f"{shown}: not a purified head; make one with `scan`") from error
    if repaired_from == checkpoint_sha256 != made_for:
        raise UsageError(
            f"{shown} was tuned on the repaired image tower of this checkpoint; give the "
            f"{TOWER_FILE} beside it instead"
        )
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
    return LoadedHead(classes, names, caveat, repaired_from)


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("expected a list of strings")
    return value
