"""Read the header of a safetensors file strictly. Pure Python, no torch.

The reference parser accepts duplicate keys, so two readers could see two different models.
"""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

from clipguard.checkpoint.pickle_scan import MAX_DIMENSIONS
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

MAX_HEADER_BYTES = 16 * 2**20
ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


def check_header(file: BinaryIO, size: int) -> None:
    """Accept the header if every byte behind it belongs to exactly one tensor.

    Args:
        file: positioned at its beginning.
        size: bytes in the file.

    Raises:
        RefusedError: damaged (CG103), oversized (CG104), tensors that do not fit their bytes
            (CG105), or duplicate keys (CG107).
    """
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise RefusedError(f"CG104 header of {length} bytes, more than {MAX_HEADER_BYTES}")
    if 8 + length > size:
        raise RefusedError("CG103 truncated safetensors: the header is cut off")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise RefusedError("CG103 the safetensors header is not JSON") from error
    if not isinstance(header, dict):
        raise RefusedError("CG103 the safetensors header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise RefusedError("CG103 the metadata of the safetensors header are not text")
    spans = sorted(_span(name, entry) for name, entry in header.items())
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise RefusedError(f"CG105 tensor {name} overlaps another or leaves a hole before it")
        position = end
    if position != size - 8 - length:
        raise RefusedError(
            f"CG103 truncated or padded safetensors: tensors need {position} bytes, "
            f"{size - 8 - length} are there"
        )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise RefusedError("CG107 a key stands twice in the safetensors header")
    return result


def _span(name: str, entry: object) -> tuple[int, int, str]:
    shown = safe_text(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise RefusedError(f"CG103 tensor {shown} is not described as safetensors does")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    natural = _naturals(shape) and _naturals(offsets) and len(offsets) == 2
    if not natural or len(shape) > MAX_DIMENSIONS:  # a product of more would take for ever
        raise RefusedError(f"CG103 tensor {shown} has an impossible shape or offset")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise RefusedError(
            f"CG103 tensor {shown} has the unknown type {safe_text(dtype)}; "
            f"known are {', '.join(ITEM_BYTES)}"
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise RefusedError(f"CG105 tensor {shown} does not fit its {safe_text(end - begin)} bytes")
    return begin, end, shown


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
