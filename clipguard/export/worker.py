"""The process that runs a classifier from outside, so that no other has to. No torch here.

It gets the ONNX file open, checks it, says what it is, and then reads images from standard input
and writes their logits to standard output. It opens no other file and writes to nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from clipguard.checkpoint.child import Task, limit
from clipguard.errors import ClipguardError, RefusedError
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.export.session import Session

SHOWN = ("checkpoint_sha256", "head", "interpolation", "resize", "resize_mode", "scope")
"""Properties of the file that are told, beside its class names."""
COUNT_BYTES = 4
LIVE_BYTES = 16
"""For each number that is in memory at once: onnxruntime takes its blocks by powers of two."""
LARGEST_LIVE = 400_000_000 * LIVE_BYTES
"""With all the numbers that a graph may hold, see `graph.MAX_LIVE`."""


def main() -> None:
    """Do the task that the command line describes, a `Task` as JSON, until the input ends."""
    task = Task(**json.loads(sys.argv[1]))
    limit(task)
    given, out, said = (os.fdopen(os.dup(i), mode) for i, mode in enumerate(("rb", "wb", "wb")))
    for i in (1, 2):  # what libraries print goes nowhere: nothing can be written to our input
        os.dup2(0, i)
    name = safe_text(Path(task.name).name)
    try:
        # not before: the import of onnxruntime prints, too
        import numpy as np

        from clipguard.export.session import session_of

        with os.fdopen(task.file, "rb") as file:
            file.seek(0)
            session = session_of(file.read(task.size), name, "cpu")
        _tell(said, _head(session))
        _limit_to(task, session)
        side = session.image_size
        while len(count := given.read(COUNT_BYTES)) == COUNT_BYTES:
            images = int.from_bytes(count, "little")
            data = given.read(images * 3 * side * side * 4)
            logits = session.run(np.frombuffer(data, "<f4").reshape(images, 3, side, side))
            out.write(np.ascontiguousarray(logits, "<f4").tobytes())
            out.flush()
    except (ClipguardError, MemoryError) as error:
        most = f"{name}: CG104 it takes more than the {task.memory >> 20} MB that its size allows"
        told = most if isinstance(error, MemoryError) else str(error)
        kind = "refused" if isinstance(error, (RefusedError, MemoryError)) else "failed"
        _tell(said, {"error": kind, "message": told})
    except Exception:  # noqa: BLE001 - whoever started it tells it
        _tell(said, {"error": "bug", "message": traceback.format_exc()})


def _head(session: Session) -> dict[str, Any]:
    return {
        "class_names": session.class_names,
        "image_size": session.image_size,
        "metadata": {key: session.metadata[key] for key in SHOWN},
        "opset": session.opset,
        "batch": session.batch,
        "work": session.cost.work,
    }


def _limit_to(task: Task, session: Session) -> None:
    """Now that it is known what the graph holds, take away the memory that it does not need."""
    import resource

    less = task.memory - LARGEST_LIVE + LIVE_BYTES * session.cost.live
    try:
        resource.setrlimit(resource.RLIMIT_AS, (less, less))
    except (OSError, ValueError):  # a system that knows no such limit, or has a lower one
        return


def _tell(said: IO[bytes], told: dict[str, Any]) -> None:
    said.write(json.dumps(told).encode() + b"\n")
    said.flush()
