"""Walk the pickle inside a torch archive without running it. Pure Python, no torch.

Default deny: a checkpoint needs about forty names and thirty instructions; anything else is
refused. torch's own restricted loader decides again afterwards; this pass is what can name
the offender before torch has seen a byte.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator

from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

MAX_BYTES = 64 * 2**20
MAX_OPCODES = 4_000_000
MAX_DEPTH = 32

CALLABLE = frozenset(
    {
        "_codecs encode",  # bytes in protocol 2
        "collections OrderedDict",
        "numpy dtype",  # learning rates of the CleanCLIP family are NumPy scalars
        "numpy._core.multiarray scalar",
        "numpy.core.multiarray scalar",
        "torch Size",
        "torch device",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
    }
)
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
_KEYS = _STRINGS | _NUMBERS
_PUTS = {"BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"}
_GETS = {"BINGET", "LONG_BINGET", "GET"}
_NAMES = {"GLOBAL", "INST", "STACK_GLOBAL"}
_BUILDERS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD", "REDUCE"}
_TUPLES = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_OTHERS = {"PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "EMPTY_DICT", "SHORT_BINSTRING"}
KNOWN = _KEYS | _PUTS | _GETS | _NAMES | _BUILDERS | _TUPLES | _OTHERS | {"BINPERSID"}


class _Value:
    """What the walk knows of one object: enough to resolve names and bound nesting."""

    __slots__ = ("callable", "depth", "is_key", "size", "text")

    def __init__(self, *, depth: int = 0, text: str | None = None, is_key: bool = False) -> None:
        self.depth = depth
        self.text = text
        self.is_key = is_key
        self.callable: str | None = None
        self.size = 0

    def hold(self, items: list[_Value]) -> None:
        """Note that `items` are now inside."""
        self.size += len(items)
        self.depth = max([self.depth, *(item.depth + 1 for item in items)])
        if self.depth > MAX_DEPTH:
            raise RefusedError(
                f"CG104 data.pkl nests deeper than {MAX_DEPTH} levels, a checkpoint does not"
            )


_MARK = _Value()


class _Walk:
    """A pickle machine that moves symbols instead of objects."""

    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.memo: dict[int, _Value] = {}

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
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in _KEYS:
            text = argument if isinstance(argument, str) and name in _STRINGS else None
            self.stack.append(_Value(text=text, is_key=True))
        else:
            self._plain(opcode)

    def _name(self, name: str, argument: object) -> None:
        if name == "STACK_GLOBAL":
            attribute, module = self.stack.pop().text, self.stack.pop().text
            if module is None or attribute is None:
                raise RefusedError("CG101 data.pkl asks for a name that it computes while loading")
            wanted = f"{module} {attribute}"
        else:
            wanted = str(argument)
        if name == "INST" or wanted not in CALLABLE | NAMED:
            raise RefusedError(
                f"CG101 data.pkl asks for {safe_text(wanted.replace(' ', '.'))}, which no "
                "checkpoint needs and which may run code; do not load this file"
            )
        value = _Value()
        value.callable = wanted if wanted in CALLABLE else None
        self.stack.append(value)

    def _build(self, name: str) -> None:
        count = {"APPEND": 1, "SETITEM": 2, "BUILD": 1, "REDUCE": 1}.get(name)
        items = self._to_mark() if count is None else self._take(count)
        target = self._top()
        if name in ("SETITEM", "SETITEMS") and not all(key.is_key for key in items[::2]):
            raise RefusedError(
                "CG104 data.pkl uses a compound object as a dictionary key, which can be made "
                "to take for ever; a checkpoint does not"
            )
        if name != "REDUCE":
            target.hold(items)
            return
        function = self.stack.pop().callable
        if function is None or (function == "collections OrderedDict" and items[0].size):
            raise RefusedError("CG101 data.pkl calls something that is not a tensor constructor")
        result = _Value()
        result.hold(items)
        self.stack.append(result)

    def _plain(self, opcode: pickletools.OpcodeInfo) -> None:
        items: list[_Value] = []
        if opcode.name == "TUPLE":
            items = self._to_mark()
        elif opcode.stack_before:
            items = self._take(len(opcode.stack_before))
        for _ in opcode.stack_after:
            value = _Value()
            value.hold(items)
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
    walk = _Walk()
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
