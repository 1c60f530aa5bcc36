"""The weights of a file as bytes, one tensor after the other. No torch: a small process does this.

NumPy is imported only for a tensor whose numbers do not lie one behind the other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipguard.checkpoint.inspection import Inspection, OpenCheckpoint, naming, open_checkpoint
from clipguard.checkpoint.layouts import Layout
from clipguard.checkpoint.source import CHANGED, Source
from clipguard.checkpoint.unwrap import weights_in
from clipguard.checkpoint.values import ITEM_BYTES, TensorRef
from clipguard.errors import RefusedError

MAX_GROWTH = 8
"""Bytes in float32 over bytes of the file: four for 8-bit weights, and some stand twice."""
Buffer = bytes | bytearray | memoryview
SandboxKind = Literal["bubblewrap", "process", "none"]


@dataclass(frozen=True)
class RawTensor:
    """What a tensor is, without its numbers.

    Attributes:
        name: as the file has it.
        dtype: torch's name of its type.
        shape: its sizes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        return self.numel * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class RawWeights:
    """The weights of a file, while it is being read.

    Attributes:
        inspection: what the static pass saw.
        form: what they were found in.
        notes: rule id and text of what was left.
        tensors: in the order of the file.
        data: the numbers of each, in that order, one behind the other, little-endian. It raises
            `RefusedError` at its end if the file was changed meanwhile.
        sandbox: what the file was read in: `bubblewrap`, `process` or `none`.
        name: see `Weights.name`.
    """

    inspection: Inspection
    form: str
    notes: tuple[str, ...]
    tensors: tuple[RawTensor, ...]
    data: Iterator[Buffer]
    sandbox: SandboxKind = "none"
    name: str = ""


@contextmanager
def raw_weights(path: Path) -> Iterator[RawWeights]:
    """Open `path`, check everything but its weights, and read those on demand.

    Args:
        path: a weights file.

    Raises:
        UsageError: no such path.
        RefusedError: anything but plain, honestly sized tensors under printable names; the
            message starts with the file's name.
    """
    with open_checkpoint(path) as opened, naming(path):
        yield raw_of(opened)


def raw_of(opened: OpenCheckpoint) -> RawWeights:
    """The weights of a file that is open.

    Raises:
        RefusedError: see `raw_weights`.
    """
    inspection, layout = opened.inspection, opened.layout
    found = weights_in(layout.content)
    wanted = in_file_order(layout, found.tensors)
    tensors = tuple(RawTensor(name, ref.dtype, ref.shape) for name, ref in wanted.items())
    require_modest(tensors, inspection.size_bytes)
    data = read_numbers(opened.source, layout, wanted, inspection.sha256)
    return RawWeights(inspection, found.form, found.notes, tensors, data, name=found.name)


def require_modest(tensors: Sequence[RawTensor], size: int) -> None:
    """Hold tensors to the size of their file, in bytes.

    Raises:
        RefusedError: they need far more memory than it has bytes (CG105).
    """
    needed = sum(4 * tensor.numel for tensor in tensors)
    if needed > MAX_GROWTH * size:
        raise RefusedError(f"CG105 the tensors need {needed} bytes, far more than the file has")


def in_file_order(layout: Layout, wanted: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """`wanted` as its bytes lie in the file."""
    return dict(sorted(wanted.items(), key=lambda item: layout.spans[item[1].storage.key]))


def read_numbers(
    source: Source, layout: Layout, wanted: Mapping[str, TensorRef], sha256: str
) -> Iterator[Buffer]:
    """Read the wanted tensors and nothing else of the file, once from its beginning to its end.

    Args:
        source: the open file.
        layout: what it holds.
        wanted: name to description, by `in_file_order`; of types in `ITEM_BYTES`, none of which
            overlaps itself.
        sha256: digest of the file as it was inspected.

    Yields:
        The numbers of each tensor, one behind the other.

    Raises:
        RefusedError: the file changed since it was inspected (CG103).
    """
    by_span: defaultdict[tuple[int, int], list[TensorRef]] = defaultdict(list)
    for ref in wanted.values():
        by_span[layout.spans[ref.storage.key]].append(ref)
    reader = source.spans([*by_span])
    for span, buffer in zip(sorted(by_span), reader, strict=True):
        for ref in by_span[span]:
            yield _numbers(buffer, ref)
    if reader.sha256 != sha256:
        raise RefusedError(CHANGED)


def _numbers(buffer: bytearray, ref: TensorRef) -> Buffer:
    """The numbers of one tensor out of the bytes of its storage."""
    item, count = ITEM_BYTES[ref.dtype], ref.numel
    if not count:
        return b""
    # What does not lie within these very bytes must not be looked at, whoever checked it before.
    last = sum(step * (n - 1) for step, n in zip(ref.stride, ref.shape, strict=True))
    if min(ref.offset, *ref.stride, 0) < 0 or (ref.offset + last + 1) * item > len(buffer):
        raise RefusedError("CG105 a tensor reaches outside the bytes of its storage")
    steps = [(n, step) for n, step in zip(ref.shape, ref.stride, strict=True) if n > 1]
    if _one_behind_the_other(steps):
        return memoryview(buffer)[ref.offset * item :][: count * item]
    import numpy as np

    whole = np.frombuffer(buffer, dtype=f"u{item}", count=len(buffer) // item)[ref.offset :]
    view = np.lib.stride_tricks.as_strided(
        whole, [n for n, _ in steps], [step * item for _, step in steps]
    )
    return np.ascontiguousarray(view).data.cast("B")


def _one_behind_the_other(steps: list[tuple[int, int]]) -> bool:
    expected = 1
    for n, step in reversed(steps):
        if step != expected:
            return False
        expected *= n
    return True
