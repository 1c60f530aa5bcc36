"""The restricted unpickler: follows the instructions of a pickle, runs nothing, makes plain values.

Protocols 0 to 5. Sets become lists, so that nothing of the file is hashed but text and small
numbers; see `calls.py` for what a call gives. Pure Python, no torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

from clipguard.checkpoint.allowlist import ALLOWED, CALLS, STORAGES
from clipguard.checkpoint.calls import WrongCallError, is_natural
from clipguard.checkpoint.numpy_calls import Array, DType
from clipguard.checkpoint.opcodes import MAX_OPCODES, instructions
from clipguard.checkpoint.values import LeftOut, Name, StorageRef
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

MAX_BYTES = 64 * 2**20
MAX_BITS = 2048
"""Of a whole number; the state of a random generator needs 128."""
MAX_KEY = 2**60
"""Whole numbers beyond this can be chosen so that they all have the same hash."""
MAX_NAME, MAX_GLOBAL = 64, 512
"""Characters in the name of a storage, and in the name of anything else."""
SCRIPTED = "__torch__."
"""What the names of the classes of a TorchScript archive begin with."""
OWN = "if the file is yours, save model.state_dict() alone"

_MEMO = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_RECALL = {"GET", "BINGET", "LONG_BINGET"}
_VALUES = {
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    "BYTEARRAY8",
}
_NO_VIEW: tuple[list[None], ...] = ([], [None])
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False}


@dataclass(frozen=True)
class Unpickled:
    """What a pickle says.

    Attributes:
        value: plain values, descriptions of tensors, and `LeftOut` objects.
        storages: what it says of the bytes of its tensors, by their key.
    """

    value: object
    storages: dict[str, StorageRef]


def unpickle(
    file: BytesIO,
    *,
    name: str = "data.pkl",
    scripted: bool = False,
    most: int = MAX_OPCODES,
    known: Mapping[str, object] | None = None,
) -> Unpickled:
    """Follow the pickle that begins where `file` stands; afterwards `file` stands behind it.

    Args:
        file: the bytes of one or more pickles.
        name: what messages call it.
        scripted: whether it is from a TorchScript archive, which names classes of its own.
        most: how many instructions it may have.
        known: what a persistent id that is a text stands for, in tar files.

    Raises:
        RefusedError: a name, call or instruction outside the allowlist (CG101), damaged bytes
            (CG103), or more work than a checkpoint needs (CG104).
    """
    machine = _Machine(name, scripted, file.getbuffer().nbytes, known or {})
    start = file.tell()
    for opcode, argument, where in instructions(file, name, most):
        machine.where = where - start
        try:
            machine.step(opcode, argument)
        except (IndexError, KeyError) as error:
            raise RefusedError(f"CG103 {name} is damaged: it takes what it never put") from error
    if len(machine.stack) != 1 or machine.below:
        raise RefusedError(f"CG103 {name} is damaged: it ends with more or less than one object")
    return Unpickled(machine.stack[0], machine.storages)


class _Machine:
    """The stack, the memo, and the instructions that move values between them."""

    def __init__(self, name: str, scripted: bool, size: int, known: Mapping[str, object]) -> None:
        self.name = name
        self.scripted = scripted
        self.known = known
        self.bytes_left = size
        self.where = 0
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, StorageRef] = {}

    def step(self, opcode: str, argument: object) -> None:
        """Follow one instruction.

        Raises:
            RefusedError: it asks for something that no checkpoint needs.
            IndexError: it takes more than there is.
            KeyError: it recalls what it never remembered.
        """
        if opcode in _VALUES:
            self._push(_CONSTANTS.get(opcode, argument))
        elif opcode in _MEMO:
            self._remember(len(self.memo) if opcode == "MEMOIZE" else argument)
        elif opcode in _RECALL:
            self.stack.append(self.memo[argument if isinstance(argument, int) else -1])
        elif opcode in ("GLOBAL", "STACK_GLOBAL"):
            self._name(argument)
        elif opcode in _MOVES:
            _MOVES[opcode](self)
        else:
            text = f" ({safe_text(argument)})" if opcode == "INST" else ""
            raise self._refusal("CG101", f"uses the instruction {opcode}{text}")

    def _refusal(self, rule: str, what: str) -> RefusedError:
        return RefusedError(
            f"{rule} {self.name} {what} at byte {self.where}, which no checkpoint needs and which "
            f"may run code or never end; do not load this file ({OWN})"
        )

    def _push(self, value: object) -> None:
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise self._refusal("CG104", f"has a number of {value.bit_length()} bits")
        self.stack.append(value)

    def _remember(self, slot: object) -> None:
        if not isinstance(slot, int) or not 0 <= slot < 2**32:
            raise self._refusal("CG104", "remembers something under an impossible number")
        self.memo[slot] = self.stack[-1]

    def _name(self, argument: object) -> None:
        if argument is None:
            attribute, module = self.stack.pop(), self.stack.pop()
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise self._refusal("CG101", "asks for a name that it computes while loading")
            if len(module) + len(attribute) > MAX_GLOBAL:  # two long texts, joined again and again
                raise self._refusal("CG104", f"asks for {safe_text(module)} and more")
            wanted = f"{module}.{attribute}"
        else:
            # a blank of the name's own would turn into a dot, and the name into another
            module, _, attribute = str(argument).partition(" ")
            wanted = f"{module}.{attribute}"
        if wanted not in ALLOWED and not (self.scripted and wanted.startswith(SCRIPTED)):
            raise self._refusal("CG101", f"asks for {safe_text(wanted)}")
        self.stack.append(Name(wanted))

    def take_to_mark(self) -> list[object]:
        """What was put since the last mark, which is gone afterwards."""
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def mark(self) -> None:
        """Whatever comes next belongs together."""
        self.below.append(self.stack)
        self.stack = []

    def take(self, count: int) -> list[object]:
        """The last `count` values."""
        if len(self.stack) < count:
            raise IndexError
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def call(self) -> None:
        """REDUCE and NEWOBJ: what stands for calling a function or making an object."""
        function, arguments = self.take(2)
        text = function.text if isinstance(function, Name) else type(function).__name__
        known = CALLS.get(text)
        if self.scripted and text.startswith(SCRIPTED):
            self.stack.append(LeftOut(text))
            return
        if known is None or not isinstance(function, Name):
            raise self._refusal("CG101", f"calls {safe_text(text)}")
        try:
            if not isinstance(arguments, tuple):
                raise WrongCallError
            result = known(arguments)
        except WrongCallError as error:
            raise self._refusal("CG101", f"calls {safe_text(text)} with wrong arguments") from error
        self.bytes_left -= len(result) if isinstance(result, bytes) else 0
        if self.bytes_left < 0:
            raise self._refusal("CG104", f"multiplies bytes by calling {safe_text(text)}")
        self.stack.append(result)

    def call_with_names(self) -> None:
        """NEWOBJ_EX: as NEWOBJ, if there are no keyword arguments."""
        if self.stack.pop() != {}:
            raise self._refusal("CG101", "makes an object with keyword arguments")
        self.call()

    def build(self) -> None:
        """BUILD: the state of an object of ours is noted or held to what is honest."""
        target, state = self.stack[-2], self.stack.pop()
        try:
            if isinstance(target, (DType, Array)):
                target.check_state(state)
            elif isinstance(target, LeftOut):
                target.held.append(state)
            elif not isinstance(target, OrderedDict) or not isinstance(state, dict):
                raise WrongCallError
        except WrongCallError as error:
            raise self._refusal("CG101", "fills in an object by hand") from error

    def storage(self) -> None:
        """BINPERSID: the name of the bytes of a tensor; text and a number, nothing else."""
        named = self.stack.pop()
        if isinstance(named, str) and named in self.known:
            return self.stack.append(self.known[named])
        match named if isinstance(named, tuple) else None:
            # the None stands for a view into another storage, which the old layout knew
            case ("storage", Name(kind), str() as key, str(), int() as count, *view) if (
                kind in STORAGES and len(key) <= MAX_NAME and is_natural(count) and view in _NO_VIEW
            ):
                found = StorageRef(key, STORAGES[kind], count)
            case _:
                raise self._refusal("CG104", "names a storage by something else than plain text")
        known = self.storages.setdefault(key, found)
        if (known.dtype, known.count) != (found.dtype, found.count):
            raise self._refusal("CG104", f"says two things of the storage {safe_text(key)!r}")
        self.stack.append(known)

    def gather(self, make: Callable[[list[object]], object]) -> None:
        """Put what came since the last mark back as one value."""
        items = self.take_to_mark()
        self.stack.append(make(items))

    def append(self, items: list[object]) -> None:
        """Add to the list (or set, or deque) on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, LeftOut):
            target.held.extend(items)
        else:
            raise self._refusal("CG101", "fills in an object by hand")

    def set_items(self, items: list[object]) -> None:
        """Add keys and values to the dictionary on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, LeftOut):
            target.held.append(target := dict[object, object]())
        if not isinstance(target, dict):
            raise self._refusal("CG101", "fills in an object by hand")
        if len(items) % 2:
            raise IndexError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS) or (isinstance(key, int) and abs(key) > MAX_KEY):
                raise self._refusal("CG104", "uses a compound object or a huge number as a key")
            target[key] = value

    def new_dict(self) -> None:
        """DICT: what was put since the mark, as keys and values."""
        items = self.take_to_mark()
        self.stack.append({})
        self.set_items(items)


_KEYS = (str, bytes, int, float, type(None))
_MOVES: dict[str, Callable[[_Machine], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m: None),
    "EMPTY_TUPLE": lambda m: m.stack.append(()),
    "EMPTY_LIST": lambda m: m.stack.append([]),
    "EMPTY_SET": lambda m: m.stack.append([]),
    "EMPTY_DICT": lambda m: m.stack.append({}),
    "MARK": _Machine.mark,
    "POP_MARK": _Machine.take_to_mark,
    "POP": lambda m: m.stack.pop() if m.stack else m.take_to_mark(),
    "DUP": lambda m: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m: m.gather(tuple),
    "TUPLE1": lambda m: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m: m.stack.append(tuple(m.take(3))),
    "LIST": lambda m: m.gather(list),
    "FROZENSET": lambda m: m.gather(list),
    "DICT": _Machine.new_dict,
    "APPEND": lambda m: m.append(m.take(1)),
    "APPENDS": lambda m: m.append(m.take_to_mark()),
    "ADDITEMS": lambda m: m.append(m.take_to_mark()),
    "SETITEM": lambda m: m.set_items(m.take(2)),
    "SETITEMS": lambda m: m.set_items(m.take_to_mark()),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
