"""The calls of a pickle, as functions of ours that check their arguments and make plain values.

Nothing is imported here and no class of the file is ever made: the result is a number, text, a
container, the description of a tensor, or a `LeftOut` that remembers the type's name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from clipguard.checkpoint.values import (
    ALL_BYTES,
    MAX_DIMENSIONS,
    LeftOut,
    Name,
    StorageRef,
    TensorRef,
)

Arguments = tuple[object, ...]
Call = Callable[[Arguments], object]


class WrongCallError(Exception):
    """A call of something known, with arguments that no checkpoint needs."""


_UNSIGNED = 2**63
TENSOR_TYPES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.Parameter"})
BAGS = frozenset(
    {
        "argparse.Namespace",
        "types.SimpleNamespace",
        "easydict.EasyDict",
        "ml_collections.config_dict.config_dict.ConfigDict",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.nodes.AnyNode",
        *(f"omegaconf.nodes.{name}Node" for name in ("Boolean", "Float", "Integer", "String")),
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    }
)
"""Settings of training scripts: attributes, and nothing that an unpickler would run."""
_PLAIN = (str, bytes, int, float, bool, type(None), LeftOut)


def is_natural(value: object) -> bool:
    """Whether it is a whole number that a size or an offset can be."""
    return type(value) is int and 0 <= value < _UNSIGNED


def sizes(value: object) -> tuple[int, ...]:
    """A tuple of a few natural numbers, from a tuple or a torch.Size (which is one here).

    Raises:
        WrongCallError: it is none.
    """
    if not isinstance(value, tuple) or len(value) > MAX_DIMENSIONS:
        raise WrongCallError
    if not all(is_natural(number) for number in value):
        raise WrongCallError
    return value


def rebuild_tensor(given: Arguments) -> TensorRef:
    """`_rebuild_tensor`, `_v2` and `_v3`: a dense tensor, held to the size of its storage."""
    match given:
        case (StorageRef() as storage, offset, shape, stride):  # of the oldest files
            dtype = storage.dtype
        case (StorageRef() as storage, offset, shape, stride, bool(), dict()):
            dtype = storage.dtype
        case (
            StorageRef(dtype="bytes") as storage,
            offset,
            shape,
            stride,
            bool(),
            dict(),
            Name(named),
        ):
            dtype = named.removeprefix("torch.")
        case _:  # among them conjugate and negative views, which say more
            raise WrongCallError
    if not isinstance(offset, int) or not is_natural(offset):
        raise WrongCallError
    shape, stride = sizes(shape), sizes(stride)
    if dtype not in ALL_BYTES or len(shape) != len(stride):
        raise WrongCallError
    tensor = TensorRef(storage, dtype, offset, shape, stride)
    tensor.check()
    return tensor


def rebuild_parameter(given: Arguments) -> object:
    """A parameter is its tensor; gradients and hooks are forgotten."""
    match given:
        case ((TensorRef() | LeftOut()) as data, *rest) if len(rest) <= 3:
            return data
    raise WrongCallError


def rebuild_subclass(given: Arguments) -> object:
    """`_rebuild_from_type_v2`: the function, the tensor's type, its arguments, attributes."""
    match given:
        case (Name(function), Name(kind), tuple() as arguments, _):
            if kind in TENSOR_TYPES and function.startswith("torch._utils._rebuild_tensor_v"):
                return rebuild_tensor(arguments)
    raise WrongCallError


def make_mapping(given: Arguments) -> OrderedDict[object, object]:
    """An ordered or default dictionary, empty; what makes its missing values is forgotten."""
    if len(given) > 1 or not all(isinstance(factory, (Name, type(None))) for factory in given):
        raise WrongCallError
    return OrderedDict()


def make_set(given: Arguments) -> list[object]:
    """A set: its members in a list, because to hash them could take for ever."""
    match given:
        case ():
            return []
        case (list() as members,):
            return members
    raise WrongCallError


def make_size(given: Arguments) -> tuple[int, ...]:
    """A torch.Size is the tuple that it is made of."""
    if len(given) != 1:
        raise WrongCallError
    return sizes(given[0])


def unwrap_scripted(given: Arguments) -> object:
    """What TorchScript wraps to remember its type: a list of numbers, and anything with a tag."""
    match given:
        case (list() as items,):
            return items
        case (value, str()):
            return value
    raise WrongCallError


def make_bytes(given: Arguments) -> bytes:
    """Bytes or a bytearray, from bytes or text; from a length it would take any memory."""
    match given:
        case ():
            return b""
        case (bytes() as data,):
            return data
        case (str() as text, "latin-1"):
            return encode((text, "latin1"))
    raise WrongCallError


def encode(given: Arguments) -> bytes:
    """Bytes, as protocol 2 writes them."""
    match given:
        case (str() as text, "latin1"):
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError as error:
                raise WrongCallError from error
    raise WrongCallError


def make_device(given: Arguments) -> str:
    """A device is its name; everything is read on the CPU."""
    match given:
        case (str() as kind,):
            return kind
        case (str() as kind, int()):
            return kind
    raise WrongCallError


def left_out_of_plain(kind: str) -> Call:
    """A call whose result is left out, of text, numbers and the like."""

    def call(given: Arguments) -> LeftOut:
        if len(given) > 8 or not all(isinstance(value, _PLAIN) for value in given):
            raise WrongCallError
        return LeftOut(kind)

    return call


def left_out(kind: str) -> Call:
    """A call whose result is left out, whatever it is made of."""
    return lambda given: LeftOut(kind)


def left_out_holding(kind: str) -> Call:
    """As `left_out`; what it is made of is kept, for other readers may take it for weights."""
    return lambda given: LeftOut(kind, [*given])


def left_out_empty(kind: str) -> Call:
    """An object of which `BUILD` says what it holds."""

    def call(given: Arguments) -> LeftOut:
        if given:
            raise WrongCallError
        return LeftOut(kind)

    return call


def reconstruct(given: Arguments) -> object:
    """`copyreg._reconstructor`: how protocols 0 and 1 make an object."""
    match given:
        case (Name(kind), Name("__builtin__.object" | "builtins.object"), None) if kind in BAGS:
            return LeftOut(kind)
    raise WrongCallError
