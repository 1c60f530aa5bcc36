"""A weights file, read: every tensor of it that may be a weight, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clipguard.checkpoint.guarded import guarded_weights
from clipguard.checkpoint.inspection import Inspection, naming
from clipguard.checkpoint.raw import SandboxKind
from clipguard.checkpoint.sandbox import AUTO, Guard
from clipguard.checkpoint.tensors import read_tensors
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
        sandbox: what the file was read in: `bubblewrap`, `process` or `none`.
        name: see `Weights.name`.
    """

    inspection: Inspection
    tensors: dict[str, Tensor]
    form: str
    notes: tuple[str, ...]
    sandbox: SandboxKind
    name: str = ""


def read_weights(path: Path, guard: Guard = AUTO) -> ReadWeights:
    """Read the weights of `path` without running anything in it.

    Args:
        path: a weights file.
        guard: how to open it.

    Raises:
        UsageError: no such path.
        RefusedError: anything but plain, finite, honestly sized tensors under printable names, or
            whoever read it came to a limit; the message starts with the file's name.
        BudgetSpentError: it took longer than the guard's deadline allows.
    """
    with guarded_weights(path, guard) as raw, naming(raw.inspection.weights_file):
        tensors = read_tensors(raw)
        _check_finite(tensors)
    return ReadWeights(raw.inspection, tensors, raw.form, raw.notes, raw.sandbox, raw.name)


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise RefusedError(
                f"CG109 tensor {safe_text(key)} holds values that are not finite in float32"
            )
