"""Classifiers that clipguard exported, run by onnxruntime alone. No torch here.

A file is parsed and checked before onnxruntime sees it, what it would compute and hold is counted,
and onnxruntime gets the very bytes that were checked.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from clipguard.errors import ClipguardError, ExportError, RefusedError, UsageError
from clipguard.export import gpu
from clipguard.export.graph import Graph, cost_of, read_graph
from clipguard.probe.images import RULE, class_names_digest
from clipguard.text_safety import safe_text

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PROVIDERS = {"cuda": CUDA, "cpu": CPU}
INPUT, OUTPUTS = "images", ("logits", "embeddings")
METADATA = ("checkpoint_sha256", "class_names", "class_names_sha256", "resize", "scope", "head")
MAX_BYTES = 1_900_000_000
MAX_SIDE = 1024
OPSETS = (13, 25)
BATCHES = (32, 16, 8, 4, 2, 1)
SILENT = 4
"""Severity from which onnxruntime logs: what it says of a file is the file's text, unescaped."""


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
        graph: what it computes, to be counted for other numbers of images.
        batch: most images at once.
    """

    runtime: Any
    name: str
    class_names: tuple[str, ...]
    image_size: int
    provider: str
    metadata: Mapping[str, str]
    opset: int
    graph: Graph
    batch: int


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
    data = _bytes_of(path, name)
    try:
        graph, metadata, opset = _checked(data)
        names = tuple(json.loads(metadata["class_names"]))
        batch = _batch(graph, len(names))
    except ValueError as error:
        raise _refused(name, safe_text(error, 300)) from error
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:  # hostile parts
        raise _refused(name, "expected a well-formed graph") from error
    runtime = _start(data, name, provider)
    return Session(
        runtime=runtime,
        name=name,
        class_names=names,
        image_size=graph.image[-1],
        provider=runtime.get_providers()[0],
        metadata=metadata,
        opset=opset,
        graph=graph,
        batch=batch,
    )


def _checked(data: bytes) -> tuple[Graph, dict[str, str], int]:
    """The graph, the properties and the operator set of a file that keeps the contract."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # hostile bytes
        raise ValueError("expected an ONNX graph, got other bytes") from error
    if (problem := next(_problems(model), None)) is not None:
        raise ValueError(problem)
    side = _dimensions(model.graph.input[0])[2]
    return read_graph(model.graph, (3, side, side)), _metadata(model), model.opset_import[0].version


def _batch(graph: Graph, classes: int) -> int:
    """The most images that are run at once; a single one must be within bounds."""
    _require_logits(graph, 1, classes)
    for images in BATCHES:
        try:
            _require_logits(graph, images, classes)
        except ValueError:
            continue
        return images
    return 1


def _require_logits(graph: Graph, images: int, classes: int) -> None:
    logits, embeddings = cost_of(graph, images).outputs
    if logits.shape != (images, classes) or embeddings.shape[:1] != (images,):
        raise ValueError(f"expected logits of shape {(images, classes)}, got {logits.shape}")


def classify(session: Session, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of images, computed for as many at once as memory allows.

    Args:
        session: from `open_session`.
        images: (N, 3, S, S) float32 RGB in [0, 1].

    Returns:
        (N, C) float32.

    Raises:
        ClipguardError: onnxruntime failed.
        RefusedError: the file computes something else than it declares.
    """
    starts = range(0, len(images), session.batch)
    return np.concatenate([_run(session, images[i : i + session.batch]) for i in starts])


def _run(session: Session, images: NDArray[np.float32]) -> NDArray[np.float32]:
    try:  # sizes may depend on the number of images in any way, so each number is counted
        _require_logits(session.graph, len(images), len(session.class_names))
    except ValueError as error:
        raise _refused(session.name, safe_text(error, 300)) from error
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


def _bytes_of(path: Path, name: str) -> bytes:
    if not path.is_file():
        raise UsageError(f"expected an ONNX file, found none at {safe_text(path)}; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise _refused(name, f"expected at most {MAX_BYTES} bytes, got {path.stat().st_size}")
    return path.read_bytes()


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


def require_provider(provider: str) -> None:
    """Refuse an execution provider that cannot be had here, before there is anything to run.

    Raises:
        UsageError: no such provider.
        ExportError: onnxruntime would run on something else.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"no execution provider named {safe_text(provider)!r} (known: cuda, cpu)")
    there = onnxruntime.get_available_providers()
    if provider == "cuda" and not (CUDA in there and gpu.cuda_driver()):
        raise _no_cuda(there)


def _no_cuda(instead: Sequence[str]) -> ExportError:
    return ExportError(
        f"wanted onnxruntime to run on CUDA, got {', '.join(instead)}; "
        "`clipguard doctor` says what is missing, --require-ep cpu runs on the CPU"
    )


def _start(data: bytes, name: str, provider: str | None) -> Any:
    if provider is not None:
        require_provider(provider)
    there, wanted = onnxruntime.get_available_providers(), list[Any]([CPU])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    onnxruntime.set_default_logger_severity(SILENT)
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
        raise _no_cuda(runtime.get_providers())
    return runtime
