"""A weights file, read: every tensor of it that may be a weight, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clipguard.checkpoint.inspection import Inspection, open_checkpoint
from clipguard.checkpoint.tensors import read_tensors
from clipguard.checkpoint.unwrap import weights_in
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text


@dataclass(frozen=True, eq=False)
class ReadWeights:
    """The weights of a file.

    Attributes:
        inspection: what the static pass saw.
        tensors: name, as the file has it, to tensor on the CPU, float32 and finite.
        form: what they were found in.
        notes: rule id and text of what was left.
        name: see `Weights.name`.
    """

    inspection: Inspection
    tensors: dict[str, Tensor]
    form: str
    notes: tuple[str, ...]
    name: str = ""


def read_weights(path: Path) -> ReadWeights:
    """Read the weights of `path` without running anything in it.

    Args:
        path: a weights file.

    Raises:
        UsageError: no such path.
        RefusedError: anything but plain, finite, honestly sized tensors under printable names;
            the message starts with the file's name.
    """
    with open_checkpoint(path) as opened:
        inspection = opened.inspection
        try:
            found = weights_in(opened.layout.content)
            tensors = read_tensors(opened.source, opened.layout, found.tensors, inspection.sha256)
            _check_finite(tensors)
        except RefusedError as error:
            name = safe_text(inspection.weights_file.name)
            raise RefusedError(f"{name}: {error}") from error
    return ReadWeights(inspection, tensors, found.form, found.notes, found.name)


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise RefusedError(
                f"CG109 tensor {safe_text(key)} holds values that are not finite in float32"
            )
