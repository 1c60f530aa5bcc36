"""The process that parses a model file, so that no other has to. It imports no torch, no NumPy.

It gets the file open, limits itself, checks the file, and writes the weights as safetensors to
standard output, and what it has to say in lines of JSON to standard error. It opens no other file
and writes to nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from clipguard.checkpoint.contents import read_contents
from clipguard.checkpoint.inspection import checked, naming
from clipguard.checkpoint.raw import RawTensor, RawWeights, raw_of
from clipguard.checkpoint.safetensors_header import DTYPES
from clipguard.checkpoint.source import Source
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

SET_PARENT_DEATH_SIGNAL = 1
"""Number of the request to `prctl`."""
Work = Literal["weights", "contents", "classifier"]
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Task:
    """What the process shall do.

    Attributes:
        work: what to tell of the file.
        file: its descriptor, which is inherited.
        size: its bytes.
        name: what it is called.
        memory: bytes of address space that it may take.
        cpu_s: seconds of processor time that it may take; 0 for one that has threads and works
            until it is ended.
        parent: process without which it shall not live, 0 for none.
    """

    work: Work
    file: int
    size: int
    name: str
    memory: int
    cpu_s: int
    parent: int


def main() -> None:
    """Do the task that the command line describes, a `Task` as JSON."""
    task = Task(**json.loads(sys.argv[1]))
    limit(task)
    path = Path(task.name)
    try:
        with os.fdopen(task.file, "rb") as file:
            source = Source(file, task.size)
            if task.work == "contents":
                _say(asdict(read_contents(source, path)))
                return
            found = checked(source, path)
            with naming(path):
                _send(raw_of(found))
        _say({"end": "of the file"})
    except RefusedError as error:
        _say({"error": "refused", "message": str(error)})
    except MemoryError:
        most = f"the {task.memory >> 20} MB that its size allows"
        told = f"{safe_text(path.name)}: CG104 to read it takes more than {most}"
        _say({"error": "refused", "message": told})
    except Exception:  # noqa: BLE001 - the parent tells it
        _say({"error": "bug", "message": traceback.format_exc()})


def limit(task: Task) -> None:
    """Take away from this process what reading a file does not need.

    The superuser is not bound by the number of processes; whatever it starts dies with its group.
    """
    if task.parent and sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != task.parent:  # it died before the line above
            os._exit(1)
    import resource

    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_AS: task.memory,
    }
    if task.cpu_s:
        limits |= {resource.RLIMIT_NPROC: 0, resource.RLIMIT_CPU: task.cpu_s}
    for kind, most in limits.items():
        try:
            # the second ends it without saying why, a second later where it is of time
            resource.setrlimit(kind, (most, most + (kind == resource.RLIMIT_CPU)))
        except (OSError, ValueError):  # a system that knows no such limit, or has a lower one
            continue


def _send(raw: RawWeights) -> None:
    header = safetensors_header(raw.tensors)
    size = len(header) + sum(tensor.size for tensor in raw.tensors)
    known = raw.inspection
    told = {"form": raw.form, "notes": raw.notes, "name": raw.name, "seen": known.notes}
    _say({"container": known.container, "sha256": known.sha256, "size": size, **told})
    out = sys.stdout.buffer
    out.write(header)
    for data in raw.data:
        out.write(data)
    out.flush()


def safetensors_header(tensors: tuple[RawTensor, ...]) -> bytes:
    """How a safetensors file begins whose tensors follow in this order."""
    entries: dict[str, object] = {}
    position = 0
    for tensor in tensors:
        offsets = [position, position := position + tensor.size]
        shape = [*tensor.shape]
        entries[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": shape,
            "data_offsets": offsets,
        }
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def _say(told: dict[str, Any]) -> None:
    sys.stderr.write(f"{json.dumps(told)}\n")
    sys.stderr.flush()
