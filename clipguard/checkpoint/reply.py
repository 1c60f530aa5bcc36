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
    require(told.keys() == keys, "what it is")
    require(told["container"] in CONTAINERS, "a container")
    return Head(
        container=told["container"],
        seen=texts(told["seen"]),
        sha256=text(told["sha256"], 64),
        size=number(told["size"], 2**63),
        form=text(told["form"]),
        notes=texts(told["notes"]),
        name=plain(told["name"], MAX_KEY),
    )


def require_weights(tensors: Iterable[RawTensor]) -> None:
    """Hold the tensors that were sent to what `weights_in` gives.

    Raises:
        RefusedError: other types, or names that no one can read (CG104).
    """
    for tensor in tensors:
        _name(tensor.name)
        require(tensor.dtype in FLOATS, "types of weights")


def read_contents(told: Mapping[str, Any]) -> Contents:
    """What a file holds; name, size and digest of it are left empty.

    Raises:
        RefusedError: it says what it may not (CG104).
    """
    require(told.keys() == Contents.__dataclass_fields__.keys(), "what it holds")
    require(told["container"] in (*CONTAINERS, ""), "a container")
    pairs = listed(told["metadata"], MAX_METADATA)
    require(all(isinstance(pair, list) and len(pair) == 2 for pair in pairs), "metadata")
    refusal = told["refusal"]
    return Contents(
        weights_file="",
        container=told["container"],
        form=text(told["form"]),
        tensors=tuple(map(_tensor, listed(told["tensors"], MAX_COUNT))),
        other_tensors=number(told["other_tensors"], MAX_COUNT),
        metadata=tuple((text(key), text(value)) for key, value in pairs),
        notes=texts(told["notes"]),
        refusal=None if refusal is None else text(refusal),
    )


def _tensor(told: object) -> RawTensor:
    if not isinstance(told, dict) or told.keys() != {"name", "dtype", "shape"}:
        raise _broken("tensors")
    shape = listed(told["shape"], MAX_DIMENSIONS)
    require(isinstance(told["dtype"], str) and told["dtype"] in ITEM_BYTES, "types of tensors")
    sizes = tuple(number(size, 2**63) for size in shape)
    return RawTensor(_name(told["name"]), told["dtype"], sizes)


def _name(value: object) -> str:
    name = plain(value, MAX_KEY)
    require(name.isprintable(), "printable names")
    return name


def texts(values: object) -> tuple[str, ...]:
    """Lines for a person.

    Raises:
        RefusedError: no list of few short ones (CG104), as of all that follow.
    """
    return tuple(map(text, listed(values, MAX_NOTES)))


def text(value: object, most: int = MAX_TEXT) -> str:
    """A line for a person, of up to `most` characters."""
    return safe_text(plain(value, most), most)


def plain(value: object, most: int) -> str:
    """Text of up to `most` characters, as it came."""
    if not isinstance(value, str) or len(value) > most:
        raise _broken(f"text of up to {most} characters")
    return value


def number(value: object, most: int) -> int:
    """A whole number from 0 to below `most`."""
    if type(value) is not int or not 0 <= value < most:  # True is one, too
        raise _broken("numbers within bounds")
    return value


def listed(value: object, most: int) -> list[Any]:
    """A list of up to `most` things."""
    if not isinstance(value, list) or len(value) > most:
        raise _broken(f"a list of up to {most}")
    return value


def require(kept: bool, wanted: str) -> None:
    """Refuse what is said unless a rule is kept; `wanted` says which."""
    if not kept:
        raise _broken(wanted)


def _broken(wanted: str) -> RefusedError:
    return RefusedError(f"CG104 the process that read it should say {wanted}, and does not")
