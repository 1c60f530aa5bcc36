"""What the restricted reader makes of a model file: plain values, and descriptions of tensors.

Pure Python, no torch: nothing here holds a weight, and nothing here is a class of the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

MAX_DIMENSIONS = 64
"""More than this torch cannot compute with."""

MAX_LEVELS = 32
"""Containers within containers; a checkpoint needs about ten."""

ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
"""Types that can be read, by torch's names, and the bytes of one number."""

OTHER_BYTES = {
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
}
"""Types that a checkpoint may hold beside its weights."""

ALL_BYTES = ITEM_BYTES | OTHER_BYTES


@dataclass(frozen=True, eq=False)
class Name:
    """Something that the file names and does not call: a type, mostly.

    Attributes:
        text: module and attribute with a dot between them.
    """

    text: str


@dataclass(frozen=True, eq=False)
class StorageRef:
    """Bytes of the file that tensors lie in.

    Attributes:
        key: which bytes, as the file calls them.
        dtype: torch's name of the type of its numbers; `bytes` where each tensor says its own.
        count: how many numbers, or bytes.
    """

    key: str
    dtype: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * (1 if self.dtype == "bytes" else ALL_BYTES[self.dtype])


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A dense tensor that has not been read yet.

    Attributes:
        storage: where its numbers lie.
        dtype: torch's name of their type.
        offset: number of the first one.
        shape: of the tensor.
        stride: numbers from one index to the next, per dimension.
    """

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def overlaps(self) -> bool:
        """Whether two of its indices share bytes: a view that claims more than is there."""
        extent = 1
        for stride, size in sorted(zip(self.stride, self.shape, strict=True)):
            if size > 1:
                if stride < extent:
                    return True
                extent += stride * (size - 1)
        return False

    def check(self) -> None:
        """Hold the tensor to the bytes that it claims to lie in.

        Raises:
            RefusedError: it reaches outside them (CG105).
        """
        last = sum(step * (n - 1) for step, n in zip(self.stride, self.shape, strict=True))
        end = self.offset + last + 1 if all(self.shape) else 0
        if end * ALL_BYTES[self.dtype] > self.storage.size:
            raise RefusedError(
                f"CG105 a tensor of shape {safe_text(self.shape)} reaches outside the bytes of "
                f"its storage {safe_text(self.storage.key)!r}"
            )


@dataclass(frozen=True, eq=False)
class LeftOut:
    """An object that is no weight and is never made; only what it held is here.

    Attributes:
        kind: its type, as the file names it.
        held: what the file puts into it, as it comes.
    """

    kind: str
    held: list[object] = field(default_factory=list)


@dataclass(frozen=True)
class Survey:
    """What is in a tree of values.

    Attributes:
        tensors: every one.
        left_out: types of the objects that are no weights, each once, in order.
    """

    tensors: tuple[TensorRef, ...]
    left_out: tuple[str, ...]


def survey(root: object) -> Survey:
    """Walk `root` level by level, each object once, so that no way of sharing takes long.

    Raises:
        RefusedError: it nests deeper than a checkpoint does (CG104).
    """
    seen: set[int] = {id(root)}
    level, tensors, kinds = [root], list[TensorRef](), dict[str, None]()
    for _ in range(MAX_LEVELS):
        below: list[object] = []
        for value in level:
            if isinstance(value, TensorRef):
                tensors.append(value)
            elif isinstance(value, LeftOut):
                kinds[value.kind] = None
            for child in _inside(value):
                if isinstance(child, _COMPOUND) and id(child) not in seen:
                    seen.add(id(child))
                    below.append(child)
        if not below:
            return Survey(tuple(tensors), tuple(kinds))
        level = below
    raise RefusedError(f"CG104 data.pkl nests deeper than {MAX_LEVELS} levels, no checkpoint does")


_COMPOUND = (dict, list, tuple, TensorRef, LeftOut)


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())  # keys are plain
    if isinstance(value, (list, tuple)):
        return list(value)
    return value.held if isinstance(value, LeftOut) else []
