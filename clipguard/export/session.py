"""Classifiers that clipguard exported, run by onnxruntime alone. No torch here.

A file is parsed and checked before onnxruntime sees it, what it would compute and hold is counted,
and onnxruntime gets the very bytes that were checked.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from clipguard.checkpoint.raw import SandboxKind
from clipguard.errors import ClipguardError, ExportError, RefusedError, UsageError
from clipguard.export import gpu
from clipguard.export.contract import INPUT, OUTPUTS, checked
from clipguard.export.graph import Cost, Graph, cost_of
from clipguard.text_safety import safe_text

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PROVIDERS = {"cuda": CUDA, "cpu": CPU}
MAX_BYTES = 1_900_000_000
BATCHES = (32, 16, 8, 4, 2, 1)
SILENT = 4
"""Severity from which onnxruntime logs: what it says of a file is the file's text, unescaped."""


@dataclass(frozen=True, eq=False)
class Session:
    """An exported classifier, ready to run.

    Attributes:
        run: computes the logits of up to `batch` images, and counts first what that takes.
        name: file name, for messages.
        class_names: C names, in the order of the logits.
        image_size: S, in pixels.
        provider: execution provider that runs it, as onnxruntime names it.
        metadata: the `clipguard.*` properties of the file, without that prefix.
        opset: version of the ONNX operator set in the file.
        batch: most images at once.
        cost: what `batch` images take.
        sandbox: what the file was checked and run in, as in `RawWeights`.
    """

    run: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    name: str
    class_names: tuple[str, ...]
    image_size: int
    provider: str
    metadata: Mapping[str, str]
    opset: int
    batch: int
    cost: Cost
    sandbox: SandboxKind = "none"


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
    return session_of(_bytes_of(path), safe_text(path.name), provider)


def session_of(data: bytes, name: str, provider: str | None = None) -> Session:
    """As `open_session`, from the bytes of the file.

    Args:
        data: the bytes.
        name: what the file is called, for messages.
        provider: as in `open_session`.

    Raises:
        UsageError: as `open_session`.
        RefusedError: as `open_session`.
        ExportError: as `open_session`.
    """
    try:
        graph, metadata, opset = checked(data)
        names = tuple(json.loads(metadata["class_names"]))
        batch = _batch(graph, len(names))
        cost = cost_of(graph, batch)
    except ValueError as error:
        raise _refused(name, safe_text(error, 300)) from error
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:  # hostile parts
        raise _refused(name, "expected a well-formed graph") from error
    runtime = _start(data, name, provider)
    return Session(
        run=partial(_run, runtime, graph, name, len(names)),
        name=name,
        class_names=names,
        image_size=graph.image[-1],
        provider=runtime.get_providers()[0],
        metadata=metadata,
        opset=opset,
        batch=batch,
        cost=cost,
    )


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
    return np.concatenate([session.run(images[i : i + session.batch]) for i in starts])


def _run(
    runtime: Any, graph: Graph, name: str, classes: int, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    try:  # sizes may depend on the number of images in any way, so each number is counted
        _require_logits(graph, len(images), classes)
    except ValueError as error:
        raise _refused(name, safe_text(error, 300)) from error
    try:
        logits: NDArray[np.float32] = runtime.run([OUTPUTS[0]], {INPUT: images})[0]
    except Exception as error:  # onnxruntime's errors share no base class
        raise ClipguardError(
            f"{name}: onnxruntime could not run it on {len(images)} images: "
            f"{safe_text(error, 300)}; try a smaller batch or --require-ep cpu"
        ) from error
    require_logits(name, logits, (len(images), classes))
    return logits


def require_logits(name: str, logits: NDArray[np.float32], wanted: tuple[int, int]) -> None:
    """Hold logits to the shape that is `wanted`.

    Raises:
        RefusedError: they have another, or are not finite.
    """
    if logits.shape != wanted or not np.isfinite(logits).all():
        raise _refused(name, f"expected finite logits of shape {wanted}")


def require_file(path: Path) -> None:
    """Stop before anything is read if there is no such file, or a very large one.

    Raises:
        UsageError: no such file.
        RefusedError: it is too large.
    """
    if not path.is_file():
        raise UsageError(f"expected an ONNX file, found none at {safe_text(path)}; check the path")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise _refused(safe_text(path.name), f"expected at most {MAX_BYTES} bytes, got {size}")


def _bytes_of(path: Path) -> bytes:
    require_file(path)
    return path.read_bytes()


def _refused(name: str, problem: str) -> RefusedError:
    return RefusedError(
        f"{name} is not a classifier that clipguard exported: {problem}; "
        "make one with `clipguard export`"
    )


def tries_cuda(provider: str | None) -> bool:
    """Whether a session for `provider` would use a GPU if onnxruntime can.

    Raises:
        UsageError: no such provider.
    """
    if provider is not None and provider not in PROVIDERS:
        raise UsageError(f"no execution provider named {safe_text(provider)!r} (known: cuda, cpu)")
    there = onnxruntime.get_available_providers()
    return provider != "cpu" and CUDA in there and gpu.cuda_driver()


def require_provider(provider: str) -> None:
    """Refuse an execution provider that cannot be had here, before there is anything to run.

    Raises:
        UsageError: no such provider.
        ExportError: onnxruntime would run on something else.
    """
    if not tries_cuda(provider) and provider == "cuda":
        raise _no_cuda(onnxruntime.get_available_providers())


def _no_cuda(instead: Sequence[str]) -> ExportError:
    return ExportError(
        f"wanted onnxruntime to run on CUDA, got {', '.join(instead)}; "
        "`clipguard doctor` says what is missing, --require-ep cpu runs on the CPU"
    )


def _start(data: bytes, name: str, provider: str | None) -> Any:
    use_cuda, wanted = tries_cuda(provider), list[Any]([CPU])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    onnxruntime.set_default_logger_severity(SILENT)
    with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime prints its fallbacks to stdout
        if use_cuda:
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
