"""From bytes to torch tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from clipguard.checkpoint.raw import Buffer, RawTensor, RawWeights
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text


def read_tensors(raw: RawWeights) -> dict[str, Tensor]:
    """Read all tensors, floating point as float32.

    They are copied and not mapped: the memory is that of any other tensor, aligned for the
    processor, and no file has to outlive it.

    Returns:
        Name to tensor on the CPU, in the order of the file.

    Raises:
        RefusedError: sizes that torch cannot make (CG105), or the file changed since it was
            inspected (CG103).
    """
    return dict(each_tensor(raw))


def each_tensor(raw: RawWeights) -> Iterator[tuple[str, Tensor]]:
    """As `read_tensors`, one after the other: name and tensor."""
    for what, data in zip(raw.tensors, raw.data, strict=True):
        yield what.name, _tensor(what, data)


def _tensor(what: RawTensor, data: Buffer) -> Tensor:
    dtype = getattr(torch, what.dtype)
    wanted = torch.float32 if dtype.is_floating_point else dtype
    if math.prod(what.shape):
        return torch.frombuffer(data, dtype=dtype).reshape(what.shape).to(wanted, copy=True)
    try:
        return torch.zeros(what.shape, dtype=wanted)
    except RuntimeError as error:  # sizes that overflow, though there is not one number
        raise RefusedError(f"CG105 torch cannot make the tensor {safe_text(what.name)}") from error
