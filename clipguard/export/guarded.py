"""A classifier from outside, checked and run by a process with limits. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipguard.checkpoint.bubblewrap import Program
from clipguard.checkpoint.inspection import naming
from clipguard.checkpoint.reply import listed, number, plain, require
from clipguard.checkpoint.sandbox import AUTO, WALL_RATE, WALL_S, Guard, Job, Reader, process_of
from clipguard.checkpoint.source import Source, opened
from clipguard.export.contract import MAX_SIDE, OPSETS
from clipguard.export.graph import MAX_WORK, Cost
from clipguard.export.session import (
    BATCHES,
    CPU,
    Session,
    open_session,
    require_file,
    require_logits,
    tries_cuda,
)
from clipguard.export.worker import COUNT_BYTES, LARGEST_LIVE, SHOWN
from clipguard.probe.images import RULE

PACKAGES = ("clipguard", "numpy", "onnx", "onnxruntime", "PIL", "google", "ml_dtypes")
WORKER = Program("clipguard.export.worker", (*PACKAGES, "typing_extensions"))
MEMORY, MEMORY_RATE, STACK = 2**30, 6, 16 * 2**20
"""Bytes of memory: of all, for each of the file, for each thread; numbers come on top."""
WORK_RATE = 2 * 10**8
"""Multiply-adds for which there is a second: far fewer than the slowest processor makes."""
MAX_CLASSES = 10**6
MAX_METADATA = 100_000


@contextmanager
def guarded_session(
    path: Path, provider: str | None = None, guard: Guard = AUTO
) -> Iterator[Session]:
    """As `open_session`, by a process with limits, which lives until this ends.

    A GPU cannot be reached from such a process. Where one is used, that process checks the file,
    and then this one checks it once more and runs it.

    Args:
        path: the ONNX file.
        provider: as in `open_session`.
        guard: how to open it.

    Raises:
        UsageError: as `open_session`.
        RefusedError: as `open_session`, or the process came to a limit, died, or says what it may
            not (CG104).
        ExportError: as `open_session`.
    """
    on_gpu = tries_cuda(provider) or provider == "cuda"
    if guard.kind == "none":
        yield open_session(path, provider)
        return
    require_file(path)
    with ExitStack() as stack:
        source = stack.enter_context(opened(path))
        job = Job(WORKER, "classifier", _memory(source), 0)
        reader = stack.enter_context(process_of(source, path, job, guard))
        with reader.within(WALL_S + source.size / WALL_RATE):
            told = reader.told()
        with naming(path):
            session = replace(_session(reader, told), sandbox=guard.kind)
        if not on_gpu:
            yield session
            return
    yield open_session(path, provider)


def _memory(source: Source) -> int:
    threads = STACK * (os.cpu_count() or 1)
    return MEMORY + MEMORY_RATE * source.size + threads + LARGEST_LIVE


def _session(reader: Reader, told: Mapping[str, Any]) -> Session:
    """What the process says that the file is, held to what it may say."""
    keys = {"class_names", "image_size", "metadata", "opset", "batch", "work"}
    require(told.keys() == keys, "what it is")
    names = tuple(plain(name, MAX_METADATA) for name in listed(told["class_names"], MAX_CLASSES))
    metadata, batch = told["metadata"], told["batch"]
    require(isinstance(metadata, dict) and metadata.keys() == {*SHOWN}, "properties")
    require(all(metadata[key] in known for key, known in RULE.items()), "a resize rule")
    require(type(batch) is int and batch in BATCHES and len(names) > 0, "a batch")
    side, work = (
        number(told["image_size"], MAX_SIDE + 1),
        number(told["work"], MAX_WORK * batch + 1),
    )

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = (len(images), len(names))
        with reader.within(WALL_S + work / WORK_RATE):
            reader.tell(len(images).to_bytes(COUNT_BYTES, "little"))
            reader.tell(np.ascontiguousarray(images, "<f4").tobytes())
            data = reader.read(4 * len(images) * len(names))
        logits = np.frombuffer(data, "<f4").reshape(shape)
        require_logits(reader.name, logits, shape)
        return logits

    return Session(
        run=run,
        name=reader.name,
        class_names=names,
        image_size=side,
        provider=CPU,
        metadata={key: plain(value, MAX_METADATA) for key, value in metadata.items()},
        opset=number(told["opset"], OPSETS[1] + 1),
        batch=batch,
        cost=Cost(work, 0, ()),
    )
