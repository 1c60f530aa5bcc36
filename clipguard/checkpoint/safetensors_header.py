"""Read the header of a safetensors file strictly. Pure Python, no torch.

The reference parser accepts duplicate keys, so two readers could see two different models.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Protocol

from clipguard.checkpoint.values import ITEM_BYTES, MAX_DIMENSIONS
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

MAX_HEADER_BYTES = 4 * 2**20
DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}
"""Types of the format, and what torch calls them."""


@dataclass(frozen=True)
class HeaderEntry:
    """One tensor of the file.

    Attributes:
        name: its key.
        dtype: torch's name of its type.
        shape: its sizes.
        begin: where its bytes begin in the file.
        end: where they end.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Readable(Protocol):
    """What bytes come from."""

    def read(self, count: int, /) -> bytes:
        """The next `count` of them."""


def read_header(file: Readable, size: int) -> tuple[HeaderEntry, ...]:
    """The tensors of the file in its own order, if every byte belongs to exactly one of them.

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
    entries = tuple(_entry(name, entry, 8 + length) for name, entry in header.items())
    position = 8 + length
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise RefusedError(
                f"CG105 tensor {safe_text(entry.name)} overlaps another or leaves a hole before it"
            )
        position = entry.end
    if position != size:
        raise RefusedError(
            f"CG103 truncated or padded safetensors: tensors need {position - 8 - length} bytes, "
            f"{size - 8 - length} are there"
        )
    return entries


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise RefusedError("CG107 a key stands twice in the safetensors header")
    return result


def _entry(name: str, entry: object, data: int) -> HeaderEntry:
    shown = safe_text(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise RefusedError(f"CG103 tensor {shown} is not described as safetensors does")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    natural = _naturals(shape) and _naturals(offsets) and len(offsets) == 2
    if not natural or len(shape) > MAX_DIMENSIONS:  # a product of more would take for ever
        raise RefusedError(f"CG103 tensor {shown} has an impossible shape or offset")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise RefusedError(
            f"CG103 tensor {shown} has the unknown type {safe_text(dtype)}; "
            f"known are {', '.join(DTYPES)}"
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_BYTES[DTYPES[dtype]]:
        raise RefusedError(f"CG105 tensor {shown} does not fit its {safe_text(end - begin)} bytes")
    return HeaderEntry(name, DTYPES[dtype], tuple(shape), data + begin, data + end)


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
