"""The instructions of a pickle, one by one, as every reader of pickles sees them."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from io import BytesIO

from clipguard.errors import RefusedError

MAX_OPCODES = 1_000_000
NEWEST_PROTOCOL = 5
_BYTE_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}


def instructions(file: BytesIO, name: str, most: int) -> Iterator[tuple[str, object, int]]:
    """Name, argument and position of each instruction from where `file` stands.

    Args:
        file: the bytes; afterwards it stands behind the end of the pickle.
        name: what messages call the pickle.
        most: how many instructions it may have.

    Raises:
        RefusedError: damaged (CG103), or more than `most` (CG104).
    """
    steps = _decoded(file, name)
    for count, (opcode, argument, position) in enumerate(steps):
        if count >= most:
            raise RefusedError(f"CG104 {name} has more than {most} instructions")
        if opcode == "PROTO" and isinstance(argument, int) and argument > NEWEST_PROTOCOL:
            raise RefusedError(f"CG103 {name} is of the unknown pickle protocol {argument}")
        if opcode in _BYTE_STRINGS:
            argument = _text_or_bytes(str(argument))
        yield opcode, argument, position


def _decoded(file: BytesIO, name: str) -> Iterator[tuple[str, object, int]]:
    try:
        for opcode, argument, position in pickletools.genops(file):
            yield opcode.name, argument, position or 0
    except Exception as error:  # hostile bytes: genops raises whatever its decoders raise
        raise RefusedError(f"CG103 {name} is truncated or damaged") from error


def _text_or_bytes(argument: str) -> str | bytes:
    """A string of Python 2: readers differ about its encoding if it is more than ASCII."""
    return argument if argument.isascii() else argument.encode("latin-1")
