"""The calls by which a pickle makes NumPy's types, numbers and arrays, as `calls.py` does the rest.

NumPy itself is never asked: with a forged type it can be made to crash or to take any memory.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from clipguard.checkpoint.calls import Arguments, WrongCallError, sizes
from clipguard.checkpoint.values import LeftOut, Name

NUMBERS = {"b1": "?", "f2": "e", "f4": "f", "f8": "d"}
NUMBERS |= {f"i{2**n}": "bhiq"[n] for n in range(4)} | {f"u{2**n}": "BHIQ"[n] for n in range(4)}
"""NumPy scalars that become plain numbers, and how `struct` calls them."""
_DTYPE = re.compile(r"b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[US][1-9]\d{0,3}")


@dataclass(frozen=True, eq=False)
class DType:
    """A NumPy type.

    Attributes:
        code: kind and size of an item, such as `f4`.
    """

    code: str

    @property
    def item_bytes(self) -> int:
        """Bytes of one item."""
        return int(self.code[1:]) * (4 if self.code[0] == "U" else 1)

    def check_state(self, state: object) -> None:
        """Accept what NumPy itself says of such a type: no flags, no fields, no other size.

        Raises:
            WrongCallError: anything else, with which NumPy can be made to crash.
        """
        item = {"U": (self.item_bytes, 4, 8), "S": (self.item_bytes, 1, 0)}
        honest = (3, None, None, None, *item.get(self.code[0], (-1, -1, 0)))
        match state:
            case (3, "<" | "|", None, None, None, int(), int(), int()):
                if (*state[:1], *state[2:]) == honest:
                    return
        raise WrongCallError


class Array(LeftOut):
    """A NumPy array, whose size is held to its bytes."""

    @staticmethod
    def check_state(state: object) -> None:
        """Accept a shape and the bytes that it takes.

        Raises:
            WrongCallError: it claims more or fewer, or holds objects.
        """
        match state:
            case (1, shape, DType() as dtype, int(), (bytes() | str()) as data):
                _hold_array(shape, dtype, data)
            case _:
                raise WrongCallError


def make_dtype(given: Arguments) -> DType:
    """A NumPy type of numbers or text; others hold objects or sizes of their own."""
    match given:
        case (str() as code, int(), int()) if _DTYPE.fullmatch(code):
            return DType(code)
    raise WrongCallError


def make_scalar(given: Arguments) -> object:
    """A NumPy scalar is a plain number, if Python has such numbers."""
    match given:
        case (DType() as dtype, (bytes() | str()) as raw):
            data = raw.encode("latin-1", "replace") if isinstance(raw, str) else raw
            if len(data) != dtype.item_bytes:
                raise WrongCallError
            if dtype.code in NUMBERS:
                return struct.unpack(f"<{NUMBERS[dtype.code]}", data)[0]
            return LeftOut("numpy scalar")
    raise WrongCallError


def make_array(given: Arguments) -> Array:
    """`_reconstruct`: an empty array, which `BUILD` fills."""
    match given:
        case (Name("numpy.ndarray"), (0,), b"b" | "b"):
            return Array("numpy.ndarray")
    raise WrongCallError


def array_from_buffer(given: Arguments) -> Array:
    """An array of protocol 5."""
    match given:
        case ((bytes() | bytearray()) as data, DType() as dtype, shape, str()):
            _hold_array(shape, dtype, data)
            return Array("numpy.ndarray")
    raise WrongCallError


def _hold_array(shape: object, dtype: DType, data: bytes | bytearray | str) -> None:
    if math.prod(sizes(shape)) * dtype.item_bytes != len(data):
        raise WrongCallError
