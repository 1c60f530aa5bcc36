"""What a checkpoint may name and call. Everything else is refused.

The names stand for functions of ours in `calls.py` and `numpy_calls.py`; nothing is imported
because a file says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from clipguard.checkpoint import calls, numpy_calls
from clipguard.checkpoint.calls import Call
from clipguard.checkpoint.values import ALL_BYTES

_PATHS = [
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path", "PurePath")
]
_RARE_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse tensor",
    "torch._utils._rebuild_qtensor": "quantised tensor",
    "torch._utils._rebuild_nested_tensor": "nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta tensor",
}
_NUMPY_RANDOM = {
    f"numpy.random._pickle.{name}": calls.left_out("numpy.random state")
    for name in ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor")
} | {"numpy.random.bit_generator.__pyx_unpickle_SeedSequence": calls.left_out("numpy.random state")}
_BUILTIN = {
    "set": calls.make_set,
    "frozenset": calls.make_set,
    "bytes": calls.make_bytes,
    "bytearray": calls.make_bytes,
    "complex": calls.left_out_of_plain("complex"),
    "range": calls.left_out_of_plain("range"),
    "slice": calls.left_out_of_plain("slice"),
}
_SCRIPTED = [
    f"torch.jit._pickle.{name}"
    for name in ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist")
] + ["torch.jit._pickle.restore_type_tag"]
CALLS: Mapping[str, Call] = MappingProxyType(
    {
        "_codecs.encode": calls.encode,
        "collections.OrderedDict": calls.make_mapping,
        "collections.defaultdict": calls.make_mapping,
        "collections.Counter": calls.left_out_holding("collections.Counter"),
        "collections.deque": calls.left_out_holding("collections.deque"),
        "copy_reg._reconstructor": calls.reconstruct,
        "copyreg._reconstructor": calls.reconstruct,
        "datetime.date": calls.left_out_of_plain("datetime.date"),
        "datetime.datetime": calls.left_out_of_plain("datetime.datetime"),
        "datetime.timedelta": calls.left_out_of_plain("datetime.timedelta"),
        "datetime.timezone": calls.left_out_of_plain("datetime.timezone"),
        "numpy.dtype": numpy_calls.make_dtype,
        "numpy.core.multiarray.scalar": numpy_calls.make_scalar,
        "numpy._core.multiarray.scalar": numpy_calls.make_scalar,
        "numpy.core.multiarray._reconstruct": numpy_calls.make_array,
        "numpy._core.multiarray._reconstruct": numpy_calls.make_array,
        "numpy.core.numeric._frombuffer": numpy_calls.array_from_buffer,
        "numpy._core.numeric._frombuffer": numpy_calls.array_from_buffer,
        "torch._C.Generator": calls.left_out("torch.Generator"),
        "torch.Size": calls.make_size,
        "torch.device": calls.make_device,
        "torch._tensor._rebuild_from_type_v2": calls.rebuild_subclass,
        "torch._utils._rebuild_parameter": calls.rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": calls.rebuild_parameter,
        "torch._utils._rebuild_tensor": calls.rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": calls.rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": calls.rebuild_tensor,
        "torch.serialization._get_layout": calls.left_out_of_plain("torch.layout"),
    }
    | {
        f"{module}.{name}": call
        for module in ("builtins", "__builtin__")
        for name, call in _BUILTIN.items()
    }
    | {name: calls.left_out("pathlib.Path") for name in _PATHS}
    | {name: calls.unwrap_scripted for name in _SCRIPTED}
    | {name: calls.left_out(kind) for name, kind in _RARE_TENSORS.items()}
    | {name: calls.left_out_empty(name) for name in calls.BAGS}
    | _NUMPY_RANDOM
)
"""What may be called, by module and attribute."""

_STORAGE_TYPES = {
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "Int": "int32",
    "Long": "int64",
    "QInt32": "qint32",
    "QInt8": "qint8",
    "QUInt2x4": "quint2x4",
    "QUInt4x2": "quint4x2",
    "QUInt8": "quint8",
    "Short": "int16",
}
STORAGES: Mapping[str, str] = MappingProxyType(
    {
        f"{module}.{name}Storage": dtype
        for name, dtype in _STORAGE_TYPES.items()
        for module in ("torch", "torch.cuda")
    }
    | {"torch.storage.UntypedStorage": "bytes", "torch.UntypedStorage": "bytes"}
)
"""Storages, and the type of their numbers; they stand in the names of storages only."""

TYPES = frozenset(
    {"numpy.ndarray", "numpy.random.bit_generator.SeedSequence", "typing.Any"}
    | {f"torch.{name}" for name in ALL_BYTES}
    | {f"{module}.{name}Tensor" for name in _STORAGE_TYPES for module in ("torch", "torch.cuda")}
    | {f"numpy.random._{name.lower()}.{name}" for name in ("MT19937", "PCG64", "Philox", "SFC64")}
    | {
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("bool", "dict", "float", "int", "list", "object", "str", "tuple")
    }
    | {"__builtin__.long", "__builtin__.unicode"}  # int and str, as protocols 0 to 2 name them
)
"""What may be named and never called."""

ALLOWED = CALLS.keys() | STORAGES.keys() | calls.TENSOR_TYPES | TYPES
