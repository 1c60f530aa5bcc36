"""What an ONNX file must look like that clipguard exported. Nothing of it is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from clipguard.export.graph import Graph, read_graph
from clipguard.probe.images import RULE, class_names_digest

INPUT, OUTPUTS = "images", ("logits", "embeddings")
METADATA = ("checkpoint_sha256", "class_names", "class_names_sha256", "resize", "scope", "head")
MAX_SIDE = 1024
OPSETS = (13, 25)


def checked(data: bytes) -> tuple[Graph, dict[str, str], int]:
    """The graph, the properties and the operator set of a file that keeps the contract.

    Args:
        data: the bytes of the file.

    Raises:
        ValueError: it does not keep it; the message says where.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # hostile bytes
        raise ValueError("expected an ONNX graph, got other bytes") from error
    if (problem := next(_problems(model), None)) is not None:
        raise ValueError(problem)
    side = _dimensions(model.graph.input[0])[2]
    return read_graph(model.graph, (3, side, side)), _metadata(model), model.opset_import[0].version


def _problems(model: Any) -> Iterator[str]:
    yield from _unexpected_parts(model)
    graph = model.graph
    if [i.name for i in graph.input] != [INPUT] or [o.name for o in graph.output] != [*OUTPUTS]:
        yield f"expected the input {INPUT!r} and the outputs {', '.join(OUTPUTS)}"
        return
    values = (*graph.input, *graph.output)
    if any(v.type.tensor_type.elem_type != onnx.TensorProto.FLOAT for v in values):
        yield "expected float32 input and outputs"
    shape = _dimensions(graph.input[0])
    if not (len(shape) == 4 and shape[:2] == [0, 3] and 0 < shape[2] == shape[3] <= MAX_SIDE):
        yield f"expected images of shape (N, 3, S, S) with dynamic N, got {shape}"
    metadata = _metadata(model)
    missing = [key for key in (*METADATA, *RULE) if key not in metadata]
    if missing:
        yield f"expected the property clipguard.{missing[0]}"
        return
    for key, known in RULE.items():
        if metadata[key] not in known:
            yield f"expected clipguard.{key} to be one of {', '.join(known)}"
    yield from _class_list_problems(metadata, _dimensions(graph.output[0]))


def _unexpected_parts(model: Any) -> Iterator[str]:
    graph, [*opsets] = model.graph, model.opset_import
    versions = [opset.version for opset in opsets if opset.domain in ("", "ai.onnx")]
    domains = {node.domain for node in graph.node}
    if not (domains <= {"", "ai.onnx"} and len(versions) == len(opsets) == 1):
        yield "expected standard operators only"
    elif not OPSETS[0] <= versions[0] <= OPSETS[1]:
        yield f"expected an operator set from {OPSETS[0]} to {OPSETS[1]}, got {versions[0]}"
    if model.functions or model.training_info or graph.sparse_initializer:
        yield "expected a plain graph without functions, training or sparse tensors"
    if graph.quantization_annotation:
        yield "expected a plain graph, got a quantised one"


def _class_list_problems(metadata: Mapping[str, str], logits: list[int]) -> Iterator[str]:
    try:
        names = json.loads(metadata["class_names"])
    except (ValueError, RecursionError):
        names = None
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        yield "expected clipguard.class_names to be a JSON list of names"
    elif class_names_digest(names) != metadata["class_names_sha256"]:
        yield "the class names do not match their digest"
    elif logits != [0, len(names)]:
        yield f"expected logits of shape (N, {len(names)}), one per class, got {logits}"


def _metadata(model: Any) -> dict[str, str]:
    pairs = [(p.key, p.value) for p in model.metadata_props]
    text = [pair for pair in pairs if all(isinstance(part, str) for part in pair)]  # or bytes
    return {key[10:]: value for key, value in text if key.startswith("clipguard.")}


def _dimensions(value: Any) -> list[int]:
    """Static sizes; 0 is a dynamic one."""
    return [d.dim_value for d in value.type.tensor_type.shape.dim]
