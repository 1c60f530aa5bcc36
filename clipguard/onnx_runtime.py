"""Classifiers that clipguard exported, run by onnxruntime alone. No torch here.

A file is parsed and checked before onnxruntime sees it, and onnxruntime gets the very bytes that
were checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clipguard import gpu
from clipguard.errors import ClipguardError, ExportError, RefusedError, UsageError
from clipguard.text_safety import safe_text

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PROVIDERS = {"cuda": CUDA, "cpu": CPU}
INPUT, OUTPUTS = "images", ("logits", "embeddings")
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RULE = {"resize_mode": ("shortest", "longest", "squash"), "interpolation": tuple(INTERPOLATIONS)}
METADATA = ("checkpoint_sha256", "class_names", "class_names_sha256", "resize", "scope", "head")
OPERATORS = """
Abs Add AveragePool BatchNormalization Cast Clip Concat Constant Conv Div Equal Erf Expand Flatten
Gather Gelu Gemm GlobalAveragePool HardSigmoid HardSwish Identity LayerNormalization MatMul Max
MaxPool Min Mul Neg Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceSum Relu Reshape Shape Sigmoid
Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where
"""
MAX_BYTES = 1_900_000_000
MAX_PIXELS = 64_000_000
MAX_SIDE = 4096
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


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


def class_names_digest(class_names: Sequence[str]) -> str:
    """SHA-256 of the names in UTF-8, joined by newlines; the record of a probe set has the same."""
    return hashlib.sha256("\n".join(class_names).encode("utf-8", "surrogatepass")).hexdigest()


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


def load_image(
    path: Path, side: int, *, resize_mode: str = "shortest", interpolation: str = "bicubic"
) -> NDArray[np.float32]:
    """Read an image by the resize rule of a model.

    Turned upright by its EXIF mark, transparency on white, then resized as open_clip does. Only
    formats whose decoders start no other program are read.

    Args:
        path: the image file.
        side: S, in pixels.
        resize_mode: `shortest` (shorter side to S, centre crop), `longest` (longer side to S,
            centred on black) or `squash` (both sides to S).
        interpolation: `bicubic` or `bilinear`.

    Returns:
        (3, S, S) float32 RGB in [0, 1].

    Raises:
        UsageError: not an image, broken, or too large when opened.
        ValueError: no such resize mode or interpolation.
    """
    if resize_mode not in RULE["resize_mode"] or interpolation not in INTERPOLATIONS:
        raise ValueError(f"no resize rule {resize_mode!r} with {interpolation!r}")
    try:
        if not path.is_file():
            raise ValueError("no plain file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked below; text of the file is not ours
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                _check_pixels(image.size)
                upright = _on_white(ImageOps.exif_transpose(image))
                square = _square(upright, side, resize_mode, INTERPOLATIONS[interpolation])
    except Exception as error:  # decoders raise anything on hostile bytes
        raise UsageError(
            f"expected an image in {safe_text(path)}, got: {safe_text(error)}; replace or remove it"
        ) from error
    pixels = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    return np.ascontiguousarray(pixels)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _square(image: Image.Image, side: int, mode: str, resample: Image.Resampling) -> Image.Image:
    if mode == "squash":
        return image.resize((side, side), resample)
    if mode == "longest":
        ratio = max(image.size) / side
        size = (round(image.width / ratio), round(image.height / ratio))
    else:
        short = min(image.size)
        size = (side * image.width // short, side * image.height // short)
    _check_pixels(size)  # a 1-pixel strip would be enlarged beyond all measure
    # torchvision rounds crops so, open_clip padding; what lies outside comes out black.
    left, top = (round((n - side) / 2) if n >= side else -((side - n) // 2) for n in size)
    return image.resize(size, resample).crop((left, top, left + side, top + side))


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} pixels, at most {MAX_PIXELS} are read")


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
        yield f"expected the operators of an image tower, got {safe_text(min(odd))}"
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
    return {p.key[10:]: p.value for p in model.metadata_props if p.key.startswith("clipguard.")}


def _dimensions(value: Any) -> list[int]:
    """Static sizes; 0 stands for a dynamic one."""
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
