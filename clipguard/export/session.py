"""Classifiers that clipguard exported, run by onnxruntime alone. No torch here.

A file is parsed and checked before onnxruntime sees it, and onnxruntime gets the very bytes that
were checked.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from clipguard.errors import ClipguardError, ExportError, RefusedError, UsageError
from clipguard.export import gpu
from clipguard.probe.images import MAX_SIDE, RULE, class_names_digest
from clipguard.text_safety import safe_text

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PROVIDERS = {"cuda": CUDA, "cpu": CPU}
INPUT, OUTPUTS = "images", ("logits", "embeddings")
METADATA = ("checkpoint_sha256", "class_names", "class_names_sha256", "resize", "scope", "head")
OPERATORS = """
Abs Add AveragePool BatchNormalization Cast Clip Concat Constant Conv Div Equal Erf Expand Flatten
Gather Gelu Gemm GlobalAveragePool HardSigmoid HardSwish Identity LayerNormalization MatMul Max
MaxPool Min Mul Neg Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceSum Relu Reshape Shape Sigmoid
Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where
"""
MAX_BYTES = 1_900_000_000


@dataclass(frozen=True, eq=False)
class Session:
    """An exported classifier, ready to run.

    Attributes:
        runtime: the onnxruntime session.
        name: file name, for messages.
        class_names: C names, in the order of the logits.
        image_size: S, in pixels.
        provider: execution provider that runs it, as onnxruntime names it.
        metadata: the `clipguard.*` properties of the file, without that prefix.
        opset: version of the ONNX operator set in the file.
    """

    runtime: Any
    name: str
    class_names: tuple[str, ...]
    image_size: int
    provider: str
    metadata: Mapping[str, str]
    opset: int


def open_session(path: Path, provider: str | None = None) -> Session:
    """Check an exported classifier and make it ready to run.

    Args:
        path: the ONNX file.
        provider: `cuda`, `cpu`, or None for CUDA where it is there, else the CPU.

    Raises:
        UsageError: no such file, or no such provider.
        RefusedError: not a file that clipguard exported; nothing of it was run.
        ExportError: `cuda` was wanted and onnxruntime would run on something else.
    """
    name = safe_text(path.name)
    model, data = _parse(path, name)
    if (problem := next(_problems(model), None)) is not None:
        raise _refused(name, problem)
    metadata = _metadata(model)
    runtime = _start(data, name, provider)
    return Session(
        runtime=runtime,
        name=name,
        class_names=tuple(json.loads(metadata["class_names"])),
        image_size=_dimensions(model.graph.input[0])[2],
        provider=runtime.get_providers()[0],
        metadata=metadata,
        opset=next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
    )


def classify(session: Session, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of one batch.

    Args:
        session: from `open_session`.
        images: (N, 3, S, S) float32 RGB in [0, 1].

    Returns:
        (N, C) float32.

    Raises:
        ClipguardError: onnxruntime failed.
        RefusedError: the file computes something else than it declares.
    """
    try:
        logits: NDArray[np.float32] = session.runtime.run([OUTPUTS[0]], {INPUT: images})[0]
    except Exception as error:  # onnxruntime's errors share no base class
        raise ClipguardError(
            f"onnxruntime could not run {session.name} on {len(images)} images: "
            f"{safe_text(error, 300)}; try a smaller batch or --require-ep cpu"
        ) from error
    wanted = (len(images), len(session.class_names))
    if logits.shape != wanted or not np.isfinite(logits).all():
        raise _refused(session.name, f"expected finite logits of shape {wanted}")
    return logits


def _parse(path: Path, name: str) -> tuple[Any, bytes]:
    if not path.is_file():
        raise UsageError(f"expected an ONNX file, found none at {safe_text(path)}; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise _refused(name, f"expected at most {MAX_BYTES} bytes, got {path.stat().st_size}")
    data = path.read_bytes()
    try:
        return onnx.load_model_from_string(data), data
    except Exception as error:  # hostile bytes
        raise _refused(name, "expected an ONNX graph, got other bytes") from error


def _refused(name: str, problem: str) -> RefusedError:
    return RefusedError(
        f"{name} is not a classifier that clipguard exported: {problem}; "
        "make one with `clipguard export`"
    )


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
    graph = model.graph
    domains = {o.domain for o in model.opset_import} | {n.domain for n in graph.node}
    if not domains <= {"", "ai.onnx"} or not model.opset_import:
        yield "expected standard operators only"
    if odd := {n.op_type for n in graph.node} - {*OPERATORS.split()}:
        yield f"expected the operators of an image tower, got {safe_text(min(odd, key=str))}"
    if model.functions or model.training_info or graph.sparse_initializer:
        yield "expected a plain graph without functions, training or sparse tensors"
    attributes = (a for n in graph.node for a in n.attribute)
    tensors = [*graph.initializer, *(t for a in attributes for t in (a.t, *a.tensors))]
    if any(t.external_data or t.data_location for t in tensors):
        yield "expected all weights in the file, got external data"


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


def _start(data: bytes, name: str, provider: str | None) -> Any:
    if provider is not None and provider not in PROVIDERS:
        raise UsageError(f"no execution provider named {safe_text(provider)!r} (known: cuda, cpu)")
    there, wanted = onnxruntime.get_available_providers(), list[Any]([CPU])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime prints its fallbacks to stdout
        if provider != "cpu" and CUDA in there and gpu.cuda_driver():
            onnxruntime.preload_dlls()
            # TensorFloat-32 rounds to 10 bits, which is coarser than the promised parity.
            wanted = [(CUDA, {"use_tf32": "0"}), CPU]
        try:
            runtime = onnxruntime.InferenceSession(data, options, providers=wanted)
        except Exception as error:  # hostile bytes, and no common base class
            raise _refused(name, f"onnxruntime says {safe_text(error, 300)}") from error
    runtime.disable_fallback()
    if provider == "cuda" and CUDA not in runtime.get_providers():
        raise ExportError(
            f"wanted onnxruntime to run on CUDA, got {', '.join(runtime.get_providers())}; "
            "`clipguard doctor` says what is missing, --require-ep cpu runs on the CPU"
        )
    return runtime
