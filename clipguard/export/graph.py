"""What an ONNX graph would compute and hold, found from sizes before anything runs it.

Only operators of image towers are known, constants must be in the file, and no size may depend on
pixels. What is counted is exact for the number of images that it is counted for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from clipguard.export.roles import Known, Node
from clipguard.export.sizes import RULES
from clipguard.export.values import LONGEST, MAX_RANK, MAX_SIZE, WHOLE, step
from clipguard.text_safety import safe_text

OPERATORS = {*RULES, "Constant"}
MAX_NODES = 20_000
MAX_LIVE = 400_000_000
"""Numbers in memory at once, beside the weights: 1.6 GB."""
MAX_WORK = 500_000_000_000
"""Multiply-adds for one image: more than twice those of ViT-L-14 at 336 pixels."""
NUMBER_WORK = 16
"""Multiply-adds that take as long as it takes to read or write one number."""
FIELDS = {1: ("float_data", "<f4"), 6: ("int32_data", "<i4"), 7: ("int64_data", "<i8")}
FIELDS |= {9: ("int32_data", "?"), 11: ("double_data", "<f8")}
"""By data type of ONNX: where numbers stand that are not raw, and how raw ones are written."""
FLOAT, INT, STRING, TENSOR, FLOATS, INTS = 1, 2, 3, 4, 6, 7
"""Types of attributes. Graphs, sparse tensors and the like are none that an image tower needs."""


class Cost(NamedTuple):
    """What a graph takes for one batch.

    Attributes:
        work: multiply-adds, with the time that it takes to move numbers.
        live: most numbers in memory at once, weights left out.
        outputs: what is known of the outputs.
    """

    work: int
    live: int
    outputs: tuple[Known, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph without its weights.

    Attributes:
        nodes: in the order of the file, which is one that can be run.
        constants: tensors that the file holds.
        input: name of the images.
        outputs: names of what it gives.
        image: sizes of one image.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Known]
    input: str
    outputs: tuple[str, ...]
    image: tuple[int, int, int]


def read_graph(graph: Any, image: tuple[int, int, int]) -> Graph:
    """The steps of a parsed ONNX graph.

    Args:
        graph: a `GraphProto`.
        image: sizes of one image, channels first.

    Raises:
        ValueError: parts that no image tower has; the message names the first.
    """
    if max(len(graph.node), len(graph.initializer)) > MAX_NODES:
        raise ValueError(f"expected at most {MAX_NODES} nodes and constants, got more")
    if odd := {node.op_type for node in graph.node} - OPERATORS:
        raise ValueError(f"expected the operators of an image tower, got {safe_text(min(odd))}")
    constants = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        settings = {item.name: _setting(item) for item in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(settings)
        else:
            nodes.append(Node(node.op_type, (*node.input,), (*node.output,), settings))
    names = [*constants, graph.input[0].name, *(name for node in nodes for name in node.outputs)]
    names = [name for name in names if name]
    told = [*names, *(node.name for node in graph.node)]
    if len({*names}) < len(names) or not all(len(n) < LONGEST and n.isprintable() for n in told):
        raise ValueError("expected distinct, printable names of tensors and nodes")
    outputs = tuple(item.name for item in graph.output)
    return Graph(tuple(nodes), constants, graph.input[0].name, outputs, image)


def _constant(settings: Mapping[str, Any]) -> Known:
    value = settings.get("value")
    if isinstance(value, Known):
        return value
    [number] = settings.values()
    array = np.asarray(number)
    whole = array.dtype.kind == "i"
    return Known(array.shape, whole, array if whole and array.size <= LONGEST else None)


def _setting(item: Any) -> Any:
    """An attribute as a plain value."""
    if item.ref_attr_name or item.type not in (FLOAT, INT, STRING, TENSOR, FLOATS, INTS):
        raise ValueError("expected plain settings, got nested graphs or the like")
    if item.type == TENSOR:
        return _tensor(item.t)
    if item.type == STRING:
        return item.s[:LONGEST].decode("ascii", "replace")
    if item.type in (FLOAT, INT):
        return item.f if item.type == FLOAT else item.i
    numbers = [*(item.floats if item.type == FLOATS else item.ints)]
    if len(numbers) > LONGEST:
        raise ValueError(f"expected at most {LONGEST} numbers in a setting, got {len(numbers)}")
    return numbers


def _tensor(tensor: Any) -> Known:
    """What a constant is; the file must hold as many numbers as its sizes say."""
    if tensor.external_data or tensor.data_location:
        raise ValueError("expected all weights in the file, got external data")
    shape, kind = tuple(tensor.dims), tensor.data_type
    if len(shape) > MAX_RANK or not all(0 <= size < MAX_SIZE for size in shape):
        raise ValueError("expected constants of sizes that an image tower has")
    if kind not in FIELDS or tensor.HasField("segment"):
        raise ValueError("expected constants of plain floating-point or whole numbers")
    field, raw = FIELDS[kind]
    numbers = getattr(tensor, field)
    held = len(tensor.raw_data) / np.dtype(raw).itemsize if tensor.raw_data else len(numbers)
    if held != math.prod(shape):
        raise ValueError("expected constants with as many numbers as their sizes say")
    if kind not in WHOLE or held > LONGEST:
        return Known(shape, kind in WHOLE)
    array = np.frombuffer(tensor.raw_data, raw) if tensor.raw_data else np.array([*numbers])
    return Known(shape, True, array.astype(WHOLE[kind]).reshape(shape))


def cost_of(graph: Graph, images: int) -> Cost:
    """What one batch takes.

    Args:
        graph: from `read_graph`.
        images: N.

    Raises:
        ValueError: more than an image tower takes, or sizes that do not fit or depend on pixels.
    """
    first = Known((images, *graph.image))
    known: dict[str, Known] = {graph.input: first, **graph.constants}
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    work, live = 0, first.size
    most = live
    for i, node in enumerate(graph.nodes):
        given = _inputs(node, known)
        try:
            made, products = step(node, given)
        except ValueError as error:
            raise ValueError(f"in {node.operator}, {error}") from error
        known.update(zip(node.outputs, made, strict=True))
        new = sum(one.size for one in made)
        read = sum(one.size for one in given if one is not None)
        work, live = work + products + NUMBER_WORK * (new + read), live + new
        most = max(most, live)
        if work > MAX_WORK * images:
            raise ValueError(f"it computes more than {MAX_WORK:.0e} multiply-adds for an image")
        if most > MAX_LIVE:
            raise ValueError(f"it holds more than {MAX_LIVE:.0e} numbers at once")
        gone = {name for name in node.inputs if last[name] == i}
        live -= sum(known[name].size for name in gone if name and name not in graph.constants)
    if any(name not in known for name in graph.outputs):
        raise ValueError("an output is never computed")
    return Cost(work, most, tuple(known[name] for name in graph.outputs))


def _inputs(node: Node, known: Mapping[str, Known]) -> list[Known | None]:
    if any(name and name not in known for name in node.inputs):
        raise ValueError(f"{node.operator} reads what nothing before it makes")
    return [known[name] if name else None for name in node.inputs]
