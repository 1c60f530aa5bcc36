"""A graph as plain values, to be looked at before anything runs it. No onnx, no torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

Shape = tuple[int, ...]


class Known(NamedTuple):
    """What is known of a tensor.

    Attributes:
        shape: its sizes.
        whole: whether its numbers are whole (or truth values).
        value: the numbers themselves where they are few, whole and do not depend on pixels.
    """

    shape: Shape
    whole: bool = False
    value: NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Node(NamedTuple):
    """One step of a graph.

    Attributes:
        operator: its name.
        inputs: names of tensors, empty where an optional one is left out.
        outputs: names of tensors.
        settings: attributes by name; tensors among them are `Known`.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any]


Given = Sequence[Known | None]
"""Inputs of a node; None where an optional one is left out."""
