"""One step of a graph: sizes, and the few whole numbers that graphs compute sizes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipguard.export.roles import Given, Known, Node, Shape
from clipguard.export.sizes import RULES, cuts, part_of_shape

LONGEST = 1024
"""Numbers of a tensor whose values are followed; no list of sizes is as long."""
MAX_RANK = 8
MAX_SIZE = 2**31
WHOLE = {6: np.int32, 7: np.int64, 9: np.bool_}
"""Data types of ONNX whose values are followed."""


class Step(NamedTuple):
    """What a node makes of its inputs.

    Attributes:
        made: one for each output.
        products: multiply-adds.
    """

    made: list[Known]
    products: int


def step(node: Node, given: Given) -> Step:
    """What `node` makes of inputs of these sizes.

    Raises:
        ValueError: sizes that do not fit, are too large, or depend on pixels.
    """
    try:
        shapes, products = RULES[node.operator](node, given)
        whole = _is_whole(node, given)
        made = [Known(_allowed(shape), whole) for shape in shapes]
        if whole:
            _require_divisor(node, given)
            if _is_followed(node, given, made):
                arrays = [found.value for found in given if found is not None]
                with np.errstate(all="ignore"):
                    value = VALUES[node.operator](node, given, arrays, made[0].shape)
                made = [made[0]._replace(value=value.reshape(made[0].shape))]
    except (TypeError, IndexError, KeyError, ArithmeticError, AttributeError) as error:
        raise ValueError("its inputs and settings do not fit") from error
    return Step(made, products)


def _is_whole(node: Node, given: Given) -> bool:
    """Whether the outputs are whole numbers; the operators allow one type, but for these."""
    match node.operator:
        case "Shape" | "Equal":
            return True
        case "Cast":
            return node.settings["to"] in WHOLE
        case "ConstantOfShape":
            fill = node.settings.get("value")
            return isinstance(fill, Known) and fill.whole
        case "Where":
            return bool(given[1] and given[1].whole)
    return bool(given[0] and given[0].whole)


def _require_divisor(node: Node, given: Given) -> None:
    """A whole number divided by zero (or the lowest one by -1) would end the process."""
    if node.operator in ("Div", "Mod"):
        divisor = given[1] and given[1].value
        if divisor is None or (divisor <= 0).any():
            raise ValueError("it divides by a number that may be zero")


def _allowed(shape: Sequence[int]) -> Shape:
    sizes = tuple(int(size) for size in shape)
    if len(sizes) > MAX_RANK or not all(0 <= size < MAX_SIZE for size in sizes):
        raise ValueError("it makes a tensor of a size that no image tower has")
    return sizes


def _is_followed(node: Node, given: Given, made: Sequence[Known]) -> bool:
    if node.operator not in VALUES or len(made) != 1 or made[0].size > LONGEST:
        return False
    if node.operator == "Shape":
        return True
    return all(found is None or found.value is not None for found in given)


def _divided(given: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Whole numbers divided as C does it, towards zero; divisors are positive."""
    return np.asarray(np.sign(given[0]) * (np.abs(given[0]) // given[1]))


def _filled(node: Node, shape: Shape) -> NDArray[Any]:
    return np.broadcast_to(node.settings["value"].value, shape)


Follow = Callable[[Node, Given, list[Any], Shape], NDArray[Any]]
VALUES: dict[str, Follow] = {
    **{
        name: lambda node, given, arrays, shape: arrays[0].reshape(shape)
        for name in ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
    },
    "Add": lambda node, given, arrays, shape: np.add(*arrays),
    "Cast": lambda node, given, arrays, shape: arrays[0].astype(WHOLE[node.settings["to"]]),
    "Concat": lambda node, given, arrays, shape: np.concatenate(arrays, node.settings["axis"]),
    "ConstantOfShape": lambda node, given, arrays, shape: _filled(node, shape),
    "Div": lambda node, given, arrays, shape: _divided(arrays),
    "Equal": lambda node, given, arrays, shape: np.equal(*arrays),
    "Expand": lambda node, given, arrays, shape: np.broadcast_to(arrays[0], shape),
    "Gather": lambda node, given, arrays, shape: np.take(
        arrays[0], arrays[1], node.settings.get("axis", 0)
    ),
    "Max": lambda node, given, arrays, shape: np.maximum(*arrays),
    "Min": lambda node, given, arrays, shape: np.minimum(*arrays),
    "Mod": lambda node, given, arrays, shape: np.mod(*arrays),
    "Mul": lambda node, given, arrays, shape: np.multiply(*arrays),
    "Neg": lambda node, given, arrays, shape: np.negative(arrays[0]),
    "Range": lambda node, given, arrays, shape: np.arange(*arrays),
    "Shape": lambda node, given, arrays, shape: np.array(part_of_shape(node, given), np.int64),
    "Slice": lambda node, given, arrays, shape: arrays[0][tuple(cuts(node, given))],
    "Sub": lambda node, given, arrays, shape: np.subtract(*arrays),
    "Transpose": lambda node, given, arrays, shape: arrays[0].transpose(node.settings.get("perm")),
    "Where": lambda node, given, arrays, shape: np.asarray(np.where(*arrays)),
}
"""What small whole numbers become, by operator. No other operator gives numbers for sizes."""
