"""Image tower and class matrix fused into one ONNX file, with proof that it equals PyTorch."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from clipguard.checkpoint.configs import OPENAI, Preprocess
from clipguard.errors import ExportError, InconclusiveError, UsageError
from clipguard.export.contract import INPUT, OUTPUTS
from clipguard.export.limits import require_exportable
from clipguard.export.session import Session, open_session
from clipguard.export.session import classify as run_onnx
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.model.roles import ClipModel
from clipguard.probe.images import class_names_digest
from clipguard.probe.rates import BATCH, attack_rate, classify, embed, rate
from clipguard.probe.sets import ProbePart, ProbeSet
from clipguard.record import (
    ExportRecord,
    ParityRecord,
)
from clipguard.search.roles import Trigger
from clipguard.text_safety import safe_text

LOGGER = logging.getLogger(__name__)
OPSET = 20
BATCHES = (1, 2, 7)
RESIZE = {
    "shortest": "shorter side {side} {interpolation}, centre crop {side}, RGB / 255",
    "longest": "longer side {side} {interpolation}, centred on black {side} x {side}, RGB / 255",
    "squash": "both sides {side} {interpolation}, RGB / 255",
}
SCOPE = {
    "purified": (
        "purified head: repairs the zero-shot classifier of this class list only; the image tower "
        "is unchanged, so `embeddings` may still carry the backdoor"
    ),
    "zero-shot": "zero-shot classifier of this class list; nothing was purified",
}
REPAIRED = (
    "repaired image tower, and with it `embeddings`, against triggers that were found and their "
    "like; a new search may still find weaker ones"
)


@dataclass(frozen=True, eq=False)
class ExportJob:
    """What an exporter writes, and what it must prove.

    Attributes:
        model: the image tower.
        classes: (C, D) unit class embeddings to fuse.
        class_names: C names.
        head: `purified` or `zero-shot`.
        checkpoint_sha256: digest of the checkpoint whose weights these are, kept in the file's
            metadata.
        repaired_from: digest of the one whose image tower was repaired; empty if none was.
        probe: images that agreement is measured on (*measure* part).
        trigger: worst inverted trigger and its target, for the ASR on the exported file.
        provider: `cuda`, `cpu`, or None for whatever is there.
        caveat: what the file must say against itself, for example limits that its head missed.
    """

    model: ClipModel
    classes: Tensor
    class_names: tuple[str, ...]
    head: str
    checkpoint_sha256: str
    probe: ProbeSet
    repaired_from: str = ""
    trigger: tuple[Trigger, int] | None = None
    provider: str | None = None
    caveat: str = ""


class _Fused(nn.Module):
    """Image tower, class matrix and logit scale: (N, 3, S, S) to logits (N, C), embeddings."""

    def __init__(self, tower: nn.Module, classes: Tensor, scale: float) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("head", (classes * scale).T.contiguous())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.tower(images)
        return embeddings @ self.head, embeddings


def write_onnx(
    job: ExportJob, path: Path, *, generator: torch.Generator, opset: int = OPSET
) -> ExportRecord:
    """Write `path`, whole or not at all. Equal jobs give equal bytes, whatever the device.

    The file has a dynamic batch, its weights inside, and the class list in its metadata. The proof
    runs it in onnxruntime: logits of *measure* images in batches of 1, 2 and 7, then clean accuracy
    and ASR on all of them.

    Args:
        job: what to write and what to prove.
        path: of the file.
        generator: for the intervals.
        opset: version of the ONNX operator set to ask for; the record says what came.

    Raises:
        ExportError: too large, not exportable, or no such provider.
        InconclusiveError: no *measure* images to prove anything on.
        UsageError: `path` cannot be written.
    """
    if len(job.probe.measure) == 0:
        raise InconclusiveError("expected images to prove the export on, got none; add images")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A failed export must not leave an older file in its place, and an unwritable folder
        # is said before the work, not after it.
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        partial.touch()
    except OSError as error:
        raise UsageError(
            f"cannot write {safe_text(path)}: {safe_text(error.strerror)}; choose another place"
        ) from error
    try:
        data = _build(job, opset)
        partial.write_bytes(data)
        record = _prove(open_session(partial, job.provider), job, generator)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    digest = hashlib.sha256(data).hexdigest()
    return record.model_copy(update={"file": path.name, "sha256": digest})


def _build(job: ExportJob, opset: int) -> bytes:
    # A copy on the CPU: the file must not depend on the device, nor the model on the export.
    tower = copy.deepcopy(job.model.image_tower()).cpu().float().eval()
    require_exportable(tower)
    classes = job.classes.detach().cpu().float()
    fused = _Fused(tower, classes, job.model.logit_scale).eval()
    model = _to_onnx(fused, job.model.image_size, opset)
    _strip(model)
    onnx.helper.set_model_props(model, _properties(job))
    onnx.checker.check_model(model)
    got = next(entry.version for entry in model.opset_import if not entry.domain)
    if got != opset:
        LOGGER.warning("asked for ONNX opset %d, the exporter wrote %d", opset, got)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _to_onnx(fused: _Fused, side: int, opset: int) -> Any:
    try:
        with _quiet():
            program = torch.onnx.export(
                fused,
                (torch.zeros(2, 3, side, side),),
                dynamo=True,
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=opset,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"torch could not turn this image tower into ONNX: {safe_text(reason, 300)}; "
            "run with --export none"
        ) from error
    if program is None:
        raise ExportError("torch's ONNX exporter returned nothing; update torch and onnxscript")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of the exporter's running commentary; errors still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _strip(message: Any) -> None:
    """Drop the exporter's notes: stack traces with paths of this machine, and their like."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if hasattr(value, "append") else [value]:
                _strip(part)


def _properties(job: ExportJob) -> dict[str, str]:
    rule: Preprocess = getattr(job.model, "preprocess", OPENAI)
    text = RESIZE[rule.resize_mode]
    scope = REPAIRED if job.repaired_from else SCOPE[job.head]
    values = {
        "checkpoint_sha256": job.checkpoint_sha256,
        "class_names": json.dumps(job.class_names),
        "class_names_sha256": class_names_digest(job.class_names),
        "resize": text.format(side=job.model.image_size, interpolation=rule.interpolation),
        "resize_mode": rule.resize_mode,
        "interpolation": rule.interpolation,
        "scope": "; ".join(filter(None, (scope, job.caveat))),
        "head": job.head,
        "tower": "repaired" if job.repaired_from else "original",
    }
    if job.repaired_from:
        values["repaired_from_sha256"] = job.repaired_from
    return {f"clipguard.{key}": value for key, value in values.items()}


def _prove(session: Session, job: ExportJob, generator: torch.Generator) -> ExportRecord:
    """What was measured on a file, without its name and digest."""
    parity = tuple(_parity(session, job, batch) for batch in BATCHES)
    part = job.probe.measure
    # One seed for all intervals: equal readings in ONNX and PyTorch give equal intervals.
    seed = int(torch.randint(2**31, (), generator=generator))

    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    clean = _read(session, part)
    accuracy = rate(clean == part.labels, part.drawings, fresh()) if job.probe.labelled else None
    asr_onnx, asr_torch = None, None
    if job.trigger is not None:
        trigger, target = job.trigger
        read = _read(session, part, trigger.apply)
        reference = classify(embed(job.model, part, trigger.apply), job.classes)
        asr_onnx = attack_rate(read, part, clean, target, fresh())
        asr_torch = attack_rate(reference, part, clean, target, fresh())
    return ExportRecord(
        file="",
        sha256="",
        head="purified" if job.head == "purified" else "zero-shot",
        tower="repaired" if job.repaired_from else "original",
        opset=session.opset,
        provider=session.provider,
        parity=parity,
        asr_onnx=asr_onnx,
        asr_torch=asr_torch,
        clean_accuracy_onnx=accuracy,
    )


@torch.no_grad()
def _parity(session: Session, job: ExportJob, batch: int) -> ParityRecord:
    part = job.probe.measure
    images = part.pixels((torch.arange(batch) + batch - 1) % len(part))  # other images each time
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        rows = job.model.encode_image(images.to(job.model.device))
        wanted = (job.model.logit_scale * rows @ job.classes.T).cpu().float()
    got = torch.from_numpy(run_onnx(session, images.numpy()))
    error = ((got - wanted).abs().amax(dim=1) / wanted.abs().amax(dim=1)).max().item()
    agreement = (got.argmax(dim=1) == wanted.argmax(dim=1)).float().mean().item()
    return ParityRecord(batch=batch, relative_error=error, top1_agreement=agreement)


@torch.no_grad()
def _read(
    session: Session, part: ProbePart, apply: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """(N,) class that the file reads from each image, rounded to 8 bits after `apply`."""
    rows = []
    for start in range(0, len(part), BATCH):
        images = part.pixels(slice(start, start + BATCH))
        if apply is not None:
            images = pixels_from_bytes(pixels_to_bytes(apply(images)))
        rows.append(torch.from_numpy(run_onnx(session, images.numpy())).argmax(dim=1))
    return torch.cat(rows)
