"""What the operators of an image tower make of the sizes of their inputs. No onnx, no torch here.

Sizes are plain numbers, because a graph is looked at for one number of images at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from clipguard.export.roles import Given, Node, Shape


def whole(given: Given, index: int) -> list[int]:
    """The numbers of an input that says sizes or axes.

    Raises:
        ValueError: they are not known.
    """
    found = given[index]
    if found is None or found.value is None:
        raise ValueError("a size depends on pixels")
    return [int(number) for number in found.value.reshape(-1)]


def _has(given: Given, index: int) -> bool:
    return len(given) > index and given[index] is not None


def _shape(given: Given, index: int = 0) -> Shape:
    found = given[index]
    if found is None:
        raise ValueError("an input is missing")
    return found.shape


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis}")
    return axis % rank


def _axes(node: Node, given: Given) -> list[int] | None:
    """Axes, which were a setting once and are an input today; None where neither is there."""
    found: list[int] | None = node.settings.get("axes")
    return whole(given, 1) if _has(given, 1) else found


def broadcast(*shapes: Shape) -> Shape:
    """The shape of what is computed number by number from tensors of these shapes."""
    rank = max(map(len, shapes))
    columns = zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True)
    sizes = [{size for size in column if size != 1} for column in columns]
    if any(len(found) > 1 for found in sizes):
        raise ValueError("the sizes of its inputs do not fit each other")
    return tuple(found.pop() if found else 1 for found in sizes)


Ruled = tuple[list[Sequence[int]], int]


def _same(node: Node, given: Given) -> Ruled:
    return [_shape(given)] * len(node.outputs), 0


def _each(node: Node, given: Given) -> Ruled:
    return [broadcast(*(found.shape for found in given if found is not None))], 0


def _matmul(node: Node, given: Given) -> Ruled:
    left, right = _shape(given), _shape(given, 1)
    rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else ()
    depth = right[-2] if len(right) > 1 else right[0]
    if left[-1] != depth:
        raise ValueError("the sizes of its inputs do not fit each other")
    shape = (*broadcast(left[:-2], right[:-2]), *rows, *columns)
    return [shape], math.prod(shape) * depth


def _gemm(node: Node, given: Given) -> Ruled:
    left, right = _shape(given), _shape(given, 1)
    rows, depth = reversed(left) if node.settings.get("transA") else left
    other, columns = reversed(right) if node.settings.get("transB") else right
    if depth != other:
        raise ValueError("the sizes of its inputs do not fit each other")
    return [(rows, columns)], rows * columns * depth


def _windows(node: Node, sizes: Shape, kernel: Sequence[int]) -> list[int]:
    """How many windows of `kernel` there are along each axis."""
    axes, settings = len(sizes), node.settings
    strides = settings.get("strides") or [1] * axes
    dilations = settings.get("dilations") or [1] * axes
    pads = settings.get("pads") or [0] * (2 * axes)
    if not (len(kernel) == len(strides) == len(dilations) == axes and len(pads) == 2 * axes):
        raise ValueError("its settings are for another number of axes")
    if min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
        raise ValueError("its settings are out of range")
    if settings.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    if settings.get("auto_pad") == "VALID":
        pads = [0] * (2 * axes)
    found = []
    for i, size in enumerate(sizes):
        room = size + pads[i] + pads[i + axes] - (kernel[i] - 1) * dilations[i] - 1
        steps = -(-room // strides[i]) if settings.get("ceil_mode") else room // strides[i]
        found.append(steps + 1)
    return found


def part_of_shape(node: Node, given: Given) -> Shape:
    """The sizes that a `Shape` gives."""
    return _shape(given)[node.settings.get("start", 0) : node.settings.get("end")]


def _conv(node: Node, given: Given) -> Ruled:
    images, weight = _shape(given), _shape(given, 1)
    shape = (images[0], weight[0], *_windows(node, images[2:], weight[2:]))
    return [shape], math.prod(shape) * math.prod(weight[1:])


def _pool(node: Node, given: Given) -> Ruled:
    images, kernel = _shape(given), node.settings["kernel_shape"]
    shape = (*images[:2], *_windows(node, images[2:], kernel))
    return [shape], math.prod(shape) * math.prod(kernel)


def _global_pool(node: Node, given: Given) -> Ruled:
    images = _shape(given)
    return [(*images[:2], *[1] * (len(images) - 2))], 0


def _reduce(node: Node, given: Given) -> Ruled:
    shape, axes = _shape(given), _axes(node, given)
    if not axes:
        axes = [] if node.settings.get("noop_with_empty_axes") else [*range(len(shape))]
    gone = {_axis(axis, len(shape)) for axis in axes}
    kept = [1 if i in gone else size for i, size in enumerate(shape)]
    if not node.settings.get("keepdims", 1):
        kept = [size for i, size in enumerate(shape) if i not in gone]
    return [kept], 0


def _reshape(node: Node, given: Given) -> Ruled:
    shape, wanted = _shape(given), whole(given, 1)
    if not node.settings.get("allowzero"):
        wanted = [size or shape[i] for i, size in enumerate(wanted)]
    count = math.prod(shape)
    if -1 in wanted:
        rest = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = count // rest
    if min(wanted, default=0) < 0 or math.prod(wanted) != count:
        raise ValueError("it reshapes to another number of numbers")
    return [wanted], 0


def _flatten(node: Node, given: Given) -> Ruled:
    shape, axis = _shape(given), node.settings.get("axis", 1)
    return [(math.prod(shape[:axis]), math.prod(shape[axis:]))], 0


def _squeeze(node: Node, given: Given) -> Ruled:
    shape, axes = _shape(given), _axes(node, given)
    if axes is None:
        return [[size for size in shape if size != 1]], 0
    gone = {_axis(axis, len(shape)) for axis in axes}
    if any(shape[axis] != 1 for axis in gone):
        raise ValueError("it drops an axis that is not of size 1")
    return [[size for i, size in enumerate(shape) if i not in gone]], 0


def _unsqueeze(node: Node, given: Given) -> Ruled:
    shape, axes = _shape(given), _axes(node, given) or []
    rank = len(shape) + len(axes)
    new, old = {_axis(axis, rank) for axis in axes}, iter(shape)
    return [[1 if i in new else next(old, 1) for i in range(rank)]], 0


def _transpose(node: Node, given: Given) -> Ruled:
    shape = _shape(given)
    order = node.settings.get("perm") or [*reversed(range(len(shape)))]
    if sorted(order) != [*range(len(shape))]:
        raise ValueError("its settings are for another number of axes")
    return [[shape[axis] for axis in order]], 0


def _concat(node: Node, given: Given) -> Ruled:
    shape = _shape(given)
    axis = _axis(node.settings["axis"], len(shape))
    size = sum(_shape(given, i)[axis] for i in range(len(given)))
    return [(*shape[:axis], size, *shape[axis + 1 :])], 0


def _split(node: Node, given: Given) -> Ruled:
    shape, parts = _shape(given), len(node.outputs)
    axis = _axis(node.settings.get("axis", 0), len(shape))
    each = -(-shape[axis] // parts)
    sizes = [min(each, max(0, shape[axis] - i * each)) for i in range(parts)]
    sizes = whole(given, 1) if _has(given, 1) else node.settings.get("split") or sizes
    if len(sizes) != parts or sum(sizes) != shape[axis]:
        raise ValueError("its parts are not the whole")
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes], 0


def cuts(node: Node, given: Given) -> list[slice]:
    """What a `Slice` keeps of each axis."""
    shape, starts, ends = _shape(given), whole(given, 1), whole(given, 2)
    axes = whole(given, 3) if _has(given, 3) else [*range(len(starts))]
    steps = whole(given, 4) if _has(given, 4) else [1] * len(starts)
    found = [slice(None)] * len(shape)
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        # Python takes -1 for the last one where ONNX may mean "before the first".
        begin, stop, pace = slice(start, end, stride).indices(shape[_axis(axis, len(shape))])
        found[_axis(axis, len(shape))] = slice(begin, None if stop < 0 else stop, pace)
    return found


def _slice(node: Node, given: Given) -> Ruled:
    sizes = zip(_shape(given), cuts(node, given), strict=True)
    return [[len(range(*cut.indices(size))) for size, cut in sizes]], 0


def _gather(node: Node, given: Given) -> Ruled:
    shape, places = _shape(given), _shape(given, 1)
    axis = _axis(node.settings.get("axis", 0), len(shape))
    return [(*shape[:axis], *places, *shape[axis + 1 :])], 0


def _pad(node: Node, given: Given) -> Ruled:
    shape, pads = [*_shape(given)], whole(given, 1)
    axes = whole(given, 3) if _has(given, 3) else [*range(len(shape))]
    for i, axis in enumerate(axes):
        shape[_axis(axis, len(shape))] += pads[i] + pads[i + len(axes)]
    return [shape], 0


def _range(node: Node, given: Given) -> Ruled:
    (start,), (end,), (pace,) = (whole(given, i) for i in range(3))
    return [(len(range(start, end, pace)),)], 0


ALONE = """
Abs BatchNormalization Cast Clip Elu Erf Exp Gelu HardSigmoid HardSwish Identity LayerNormalization
LeakyRelu Log Neg Reciprocal Relu Sigmoid Softmax Softplus Sqrt Tanh
"""
TOGETHER = "Add Div Equal Max Min Mod Mul Pow Sub Where"
REDUCED = "ReduceL2 ReduceMax ReduceMean ReduceSum"
RULES: dict[str, Callable[[Node, Given], Ruled]] = {
    **dict.fromkeys(ALONE.split(), _same),
    **dict.fromkeys(TOGETHER.split(), _each),
    **dict.fromkeys(REDUCED.split(), _reduce),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    "Concat": _concat,
    "ConstantOfShape": lambda node, given: ([whole(given, 0)], 0),
    "Conv": _conv,
    "Expand": lambda node, given: ([broadcast(_shape(given), tuple(whole(given, 1)))], 0),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "MatMul": _matmul,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": lambda node, given: ([(len(part_of_shape(node, given)),)], 0),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Sizes of the outputs and number of multiply-adds, by operator. No other operator is run."""
