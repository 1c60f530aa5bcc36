"""Walk the pickle inside a torch archive without running it. Pure Python, no torch.

Default deny: a checkpoint needs about forty names and thirty instructions; anything else is
refused. torch's own restricted loader decides again afterwards; this pass is what can name
the offender before torch has seen a byte.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator

from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

MAX_BYTES = 64 * 2**20
MAX_OPCODES = 4_000_000
MAX_DEPTH = 32

MAX_DIMENSIONS = 64
"""More than this torch cannot compute with."""

_TENSOR = "storage number sizes sizes number OrderedDict"
CALLABLE = {
    "_codecs encode": ("(text|latin1|type) latin1", "bytes"),  # bytes in protocol 2
    "collections OrderedDict": ("", "OrderedDict"),
    # learning rates of the CleanCLIP family are NumPy scalars
    "numpy dtype": ("type number number", "dtype"),
    "numpy._core.multiarray scalar": ("dtype bytes", ""),
    "numpy.core.multiarray scalar": ("dtype bytes", ""),
    "torch Size": ("sizes", ""),
    "torch device": ("text( number)?", ""),
    "torch._utils _rebuild_parameter": ("tensor number OrderedDict", ""),
    "torch._utils _rebuild_tensor_v2": (_TENSOR, "tensor"),
    "torch._utils _rebuild_tensor_v3": (f"{_TENSOR} name", "tensor"),
}
"""What may be called: the kinds of its arguments as a regular expression, the kind it returns."""
_STORAGE = "text name text text number"
"""What the name of a storage is made of."""
MAX_ARGUMENTS = 8
_STORAGES = {"BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"}
_FLOATS = {"bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"}
_INTEGERS = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
NAMED = frozenset(
    {f"torch {name}Storage" for name in _STORAGES}
    | {f"torch {name}" for name in _FLOATS | _INTEGERS}
    | {"torch.storage UntypedStorage"}
)
"""Named but never called: calling `UntypedStorage` would allocate whatever the file asks for."""

_STRINGS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE"}
_INTEGRAL = {"BININT", "BININT1", "BININT2", "LONG1", "NEWTRUE", "NEWFALSE"}
_WORDS = {"latin1": "latin1"} | dict.fromkeys(("b1", "f4", "f8", "i4", "i8"), "type")
_PLAIN = {"text", "latin1", "type", "number", "plain"}
_KEYS = _STRINGS | _NUMBERS
_PUTS = {"BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"}
_GETS = {"BINGET", "LONG_BINGET", "GET"}
_NAMES = {"GLOBAL", "INST", "STACK_GLOBAL"}
_BUILDERS = {
    "APPEND": {"list"},
    "APPENDS": {"list"},
    "SETITEM": {"dict", "OrderedDict"},
    "SETITEMS": {"dict", "OrderedDict"},
    "BUILD": {"OrderedDict", "dtype"},
}
"""Instructions that fill an object, and the kinds of object that they may fill."""
_STATE = "number text plain plain plain number number number"
_BYTE_ORDERS = [[3, order, None, None, None, -1, -1, 0] for order in "<|"]
"""The only states of a NumPy type that are honest: no flags, no fields, no size of its own."""
_TUPLES = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_OTHERS = {"PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "EMPTY_DICT", "SHORT_BINSTRING"}
_OTHERS |= {"BINPERSID", "REDUCE"}
KNOWN = _KEYS | _PUTS | _GETS | _NAMES | _BUILDERS.keys() | _TUPLES | _OTHERS


class _Value:
    """What the walk knows of one object: enough to resolve names, check calls, bound nesting.

    Attributes:
        kind: as in `CALLABLE` and `_BUILDERS`; what may be called has its own name.
        literal: of text and numbers.
        items: of a tuple.
    """

    __slots__ = ("depth", "items", "kind", "literal")

    def __init__(self, kind: str = "", literal: object = None) -> None:
        self.depth = 0
        self.kind = kind
        self.literal = literal
        self.items: list[_Value] | None = None

    def hold(self, items: list[_Value]) -> None:
        """Note that `items` are now inside."""
        self.depth = max([self.depth, *(item.depth + 1 for item in items)])
        if self.depth > MAX_DEPTH:
            raise RefusedError(
                f"CG104 data.pkl nests deeper than {MAX_DEPTH} levels, a checkpoint does not"
            )

    def matches(self, kinds: str) -> bool:
        """Whether this is a tuple of such `kinds`."""
        if self.items is None or len(self.items) > MAX_ARGUMENTS:
            return False
        return re.fullmatch(kinds, " ".join(item.kind for item in self.items)) is not None

    def literals(self) -> list[object]:
        """What stands in this tuple, None for what is no literal."""
        return [item.literal for item in self.items or ()]


_MARK = _Value()


class _Walk:
    """A pickle machine that moves symbols instead of objects."""

    def __init__(self, size: int) -> None:
        self.stack: list[_Value] = []
        self.memo: dict[int, _Value] = {}
        self.bytes_left = size

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        """Follow one instruction.

        Raises:
            RefusedError: it asks for something that no checkpoint needs.
        """
        name = opcode.name
        if name in _NAMES:
            self._name(name, argument)
        elif name in _PUTS:
            self.memo[_index(argument, len(self.memo))] = self._top()
        elif name in _GETS:
            self.stack.append(self.memo[_index(argument, -1)])
        elif name in _BUILDERS:
            self._build(name)
        elif name == "REDUCE":
            self._call(*self._take(2))
        elif name == "BINPERSID":
            self._storage(self._take(1)[0])
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in _STRINGS:
            self.stack.append(_Value(_WORDS.get(str(argument), "text"), argument))
        elif name in _NUMBERS:
            literal = {"NEWTRUE": True, "NEWFALSE": False}.get(name, argument)
            self.stack.append(_Value("number" if name in _INTEGRAL else "plain", literal))
        else:
            self._plain(opcode)

    def _name(self, name: str, argument: object) -> None:
        if name == "STACK_GLOBAL":
            attribute, module = self.stack.pop().literal, self.stack.pop().literal
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise RefusedError("CG101 data.pkl asks for a name that it computes while loading")
            wanted = f"{module} {attribute}"
        else:
            wanted = str(argument)
        if name == "INST" or wanted not in CALLABLE.keys() | NAMED:
            raise RefusedError(
                f"CG101 data.pkl asks for {safe_text(wanted.replace(' ', '.'))}, which no "
                "checkpoint needs and which may run code; do not load this file"
            )
        self.stack.append(_Value("name" if wanted in NAMED else wanted))

    def _build(self, name: str) -> None:
        count = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}.get(name)
        items = self._to_mark() if count is None else self._take(count)
        target = self._top()
        if name in ("SETITEM", "SETITEMS") and not all(key.kind in _PLAIN for key in items[::2]):
            raise RefusedError(
                "CG104 data.pkl uses a compound object as a dictionary key, which can be made "
                "to take for ever; a checkpoint does not"
            )
        honest = name != "BUILD" or items[0].kind == "dict"
        if target.kind == "dtype":
            honest = items[0].matches(_STATE) and items[0].literals() in _BYTE_ORDERS
        if not honest or target.kind not in _BUILDERS[name]:
            raise RefusedError(
                "CG101 data.pkl fills in an object by hand, which no checkpoint needs"
            )
        target.hold(items)

    def _call(self, function: _Value, given: _Value) -> None:
        if function.kind not in CALLABLE:
            raise RefusedError("CG101 data.pkl calls something that is not a tensor constructor")
        wanted, kind = CALLABLE[function.kind]
        if kind == "bytes" and given.items:
            self.bytes_left -= len(str(given.items[0].literal))
        if not given.matches(wanted) or self.bytes_left < 0:
            raise RefusedError(
                f"CG101 data.pkl calls {function.kind.replace(' ', '.')} in a way that no "
                "checkpoint needs; do not load this file"
            )
        result = _Value(kind)
        result.hold([given])
        self.stack.append(result)

    def _storage(self, name: _Value) -> None:
        if not name.matches(_STORAGE):
            raise RefusedError("CG104 data.pkl names a storage by something else than plain text")
        self.stack.append(_Value("storage"))

    def _plain(self, opcode: pickletools.OpcodeInfo) -> None:
        items: list[_Value] = []
        if opcode.name == "TUPLE":
            items = self._to_mark()
        elif opcode.stack_before:
            items = self._take(len(opcode.stack_before))
        for _ in opcode.stack_after:
            value = _Value({"EMPTY_LIST": "list", "EMPTY_DICT": "dict"}.get(opcode.name, ""))
            value.hold(items)
            if opcode.name in _TUPLES:
                value.items = items
                if len(items) <= MAX_DIMENSIONS and all(i.kind == "number" for i in items):
                    value.kind = "sizes"
            self.stack.append(value)

    def _top(self) -> _Value:
        if self.stack[-1] is _MARK:
            raise ValueError("a mark is not an object")
        return self.stack[-1]

    def _take(self, count: int) -> list[_Value]:
        taken = self.stack[-count:]
        if len(taken) < count or _MARK in taken:
            raise ValueError("stack underflow")
        del self.stack[-count:]
        return taken

    def _to_mark(self) -> list[_Value]:
        items: list[_Value] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]


def _index(argument: object, otherwise: int) -> int:
    return argument if isinstance(argument, int) else otherwise


def scan_pickle(data: bytes) -> None:
    """Accept `data` if all it does is to assemble tensors, containers and plain values.

    Raises:
        RefusedError: a name, call or instruction outside the allowlist (CG101), trailing or
            damaged bytes (CG103), or more work or nesting than a checkpoint needs (CG104).
    """
    if len(data) > MAX_BYTES:
        raise RefusedError(f"CG104 data.pkl has {len(data)} bytes, more than {MAX_BYTES}")
    walk = _Walk(len(data))
    end = 0
    for count, (opcode, argument, position) in enumerate(_opcodes(data)):
        if count >= MAX_OPCODES:
            raise RefusedError(f"CG104 data.pkl has more than {MAX_OPCODES} instructions")
        if opcode.name not in KNOWN:
            raise RefusedError(
                f"CG101 data.pkl uses the instruction {opcode.name}, which no checkpoint needs"
            )
        try:
            walk.step(opcode, argument)
        except (IndexError, KeyError, ValueError) as error:
            raise RefusedError("CG103 data.pkl is damaged: it takes what it never put") from error
        end = position
    if end + 1 != len(data):
        raise RefusedError("CG103 data.pkl goes on after its end; something is hidden behind it")


def _opcodes(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, object, int]]:
    try:
        for opcode, argument, position in pickletools.genops(data):
            yield opcode, argument, position or 0
    except Exception as error:  # hostile bytes: genops raises whatever its decoders raise
        raise RefusedError("CG103 data.pkl is truncated or damaged") from error
