"""From descriptions to tensors: the bytes of the storages, read once, in the order of the file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from clipguard.checkpoint.layouts import Layout
from clipguard.checkpoint.source import Source
from clipguard.checkpoint.values import TensorRef
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

MAX_GROWTH = 8
"""Bytes in float32 over bytes of the file: four for 8-bit weights, and some stand twice."""


def read_tensors(
    source: Source, layout: Layout, wanted: Mapping[str, TensorRef], sha256: str
) -> dict[str, Tensor]:
    """Read the wanted tensors, floating point as float32, and nothing else of the file.

    Args:
        source: the open file.
        layout: what it holds.
        wanted: key to description; of types in `ITEM_BYTES`, none of which overlaps itself.
        sha256: digest of the file as it was inspected.

    Returns:
        Key to tensor on the CPU, in the order of `wanted`.

    Raises:
        RefusedError: the tensors need far more memory than the file has bytes (CG105), or the
            file changed since it was inspected (CG103).
    """
    needed = sum(4 * tensor.numel for tensor in wanted.values())
    if needed > MAX_GROWTH * source.size:
        raise RefusedError(f"CG105 the tensors need {needed} bytes, far more than the file has")
    by_span: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for key, tensor in wanted.items():
        by_span[layout.spans[tensor.storage.key]].append(key)
    found: dict[str, Tensor] = {}
    reader = source.spans([*by_span])
    for span, buffer in zip(sorted(by_span), reader, strict=True):
        for key in by_span[span]:
            try:
                found[key] = _tensor(buffer, wanted[key])
            except RuntimeError as error:  # sizes that overflow where there is not one number
                raise RefusedError(
                    f"CG105 torch cannot make the tensor {safe_text(key)}"
                ) from error
    if reader.sha256 != sha256:
        raise RefusedError("CG103 the file changed while it was being read; try again")
    return {key: found[key] for key in wanted}


def _tensor(buffer: bytearray, ref: TensorRef) -> Tensor:
    """One tensor out of the bytes of its storage, which are not kept if it is but a part."""
    dtype = getattr(torch, ref.dtype)
    if not math.prod(ref.shape):
        return torch.zeros(ref.shape, dtype=torch.float32 if dtype.is_floating_point else dtype)
    # a storage without a type may end with bytes that make no number
    whole = torch.frombuffer(buffer, dtype=dtype, count=len(buffer) // dtype.itemsize)
    tensor = whole.as_strided(ref.shape, ref.stride, ref.offset)
    if dtype.is_floating_point and dtype != torch.float32:
        return tensor.float()
    return tensor if tensor.numel() == whole.numel() else tensor.clone()
