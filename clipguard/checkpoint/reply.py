"""What the process that parsed a file says of it, held to what it may say.

It opened a stranger's file, so what it says is a stranger's text, too: types, lengths and counts
are checked here, and what can be known without it is never taken from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipguard.checkpoint.contents import MAX_METADATA, Contents
from clipguard.checkpoint.raw import RawTensor
from clipguard.checkpoint.unwrap import FLOATS, MAX_KEY
from clipguard.checkpoint.values import ITEM_BYTES, MAX_DIMENSIONS
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

CONTAINERS = ("zip", "TorchScript", "legacy", "tar", "safetensors")
MAX_NOTES = 32
MAX_TEXT = 4000
MAX_COUNT = 2**31


@dataclass(frozen=True)
class Head:
    """What is said before the weights.

    Attributes:
        container: as in `Inspection`.
        seen: notes of the static pass.
        sha256: digest of what it read, to be compared with our own.
        size: bytes that follow, as a safetensors file.
        form: as in `RawWeights`.
        notes: as in `RawWeights`.
        name: as in `RawWeights`.
    """

    container: str
    seen: tuple[str, ...]
    sha256: str
    size: int
    form: str
    notes: tuple[str, ...]
    name: str


def read_head(told: Mapping[str, Any]) -> Head:
    """What is said before the weights.

    Raises:
        RefusedError: it says what it may not (CG104).
    """
    keys = {"container", "seen", "sha256", "size", "form", "notes", "name"}
    _require(told.keys() == keys, "what it is")
    _require(told["container"] in CONTAINERS, "a container")
    return Head(
        container=told["container"],
        seen=_texts(told["seen"]),
        sha256=_text(told["sha256"], 64),
        size=_number(told["size"], 2**63),
        form=_text(told["form"]),
        notes=_texts(told["notes"]),
        name=_plain(told["name"], MAX_KEY),
    )


def require_weights(tensors: Iterable[RawTensor]) -> None:
    """Hold the tensors that were sent to what `weights_in` gives.

    Raises:
        RefusedError: other types, or names that no one can read (CG104).
    """
    for tensor in tensors:
        _name(tensor.name)
        _require(tensor.dtype in FLOATS, "types of weights")


def read_contents(told: Mapping[str, Any]) -> Contents:
    """What a file holds; name, size and digest of it are left empty.

    Raises:
        RefusedError: it says what it may not (CG104).
    """
    _require(told.keys() == Contents.__dataclass_fields__.keys(), "what it holds")
    _require(told["container"] in (*CONTAINERS, ""), "a container")
    pairs = _list(told["metadata"], MAX_METADATA)
    _require(all(isinstance(pair, list) and len(pair) == 2 for pair in pairs), "metadata")
    refusal = told["refusal"]
    return Contents(
        weights_file="",
        container=told["container"],
        form=_text(told["form"]),
        tensors=tuple(map(_tensor, _list(told["tensors"], MAX_COUNT))),
        other_tensors=_number(told["other_tensors"], MAX_COUNT),
        metadata=tuple((_text(key), _text(value)) for key, value in pairs),
        notes=_texts(told["notes"]),
        refusal=None if refusal is None else _text(refusal),
    )


def _tensor(told: object) -> RawTensor:
    _require(isinstance(told, dict) and told.keys() == {"name", "dtype", "shape"}, "tensors")
    shape = _list(told["shape"], MAX_DIMENSIONS)
    _require(isinstance(told["dtype"], str) and told["dtype"] in ITEM_BYTES, "types of tensors")
    sizes = tuple(_number(size, 2**63) for size in shape)
    return RawTensor(_name(told["name"]), told["dtype"], sizes)


def _name(value: object) -> str:
    name = _plain(value, MAX_KEY)
    _require(name.isprintable(), "printable names")
    return name


def _texts(values: object) -> tuple[str, ...]:
    return tuple(map(_text, _list(values, MAX_NOTES)))


def _text(value: object, most: int = MAX_TEXT) -> str:
    return safe_text(_plain(value, most), most)


def _plain(value: object, most: int) -> str:
    _require(isinstance(value, str) and len(value) <= most, f"text of up to {most} characters")
    return str(value)


def _number(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value < most:  # True is one, too
        raise _broken("numbers within bounds")
    return value


def _list(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise _broken(f"a list of up to {most}")
    return value


def _require(kept: bool, wanted: str) -> None:
    if not kept:
        raise _broken(wanted)


def _broken(wanted: str) -> RefusedError:
    return RefusedError(f"CG104 the process that read it should say {wanted}, and does not")
