"""Time and memory until a model can be searched: `inspect`, and the load through its own process.

    python benchmarks/load_time.py

Writes a ViT-B-32 with random weights (600 MB) to a temporary folder. Rows: `clipguard inspect` as a
whole process; `load_checkpoint` and `build_model`, beside `torch.load` and hashing the file, each
in a fresh process, with the peak of its memory above what the imports take. Prints a table and
writes `benchmarks/results/load-time.json`. Linux only.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ARCH = "ViT-B-32"
ROUNDS = 3


def write(path: Path) -> None:
    import open_clip
    import torch

    torch.manual_seed(0)
    torch.save(open_clip.create_model(ARCH).state_dict(), path)


def peak() -> float:
    """Most memory that this process ever took, in MB; `getrusage` counts its parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def ours(path: Path, sandbox: str) -> None:
    """Print what a load takes; runs in a process of its own."""
    import torch

    from clipguard.audit import pipeline
    from clipguard.checkpoint.load import load_checkpoint
    from clipguard.checkpoint.sandbox import Guard
    from clipguard.model.open_clip import build_model

    pipeline.device_of("cpu")
    imports, begun = peak(), time.monotonic()
    checkpoint = load_checkpoint(path, arch=ARCH, guard=Guard(sandbox))
    read = time.monotonic() - begun
    build_model(checkpoint, torch.device("cpu"))
    built = time.monotonic() - begun
    said = {"read_s": read, "ready_s": built, "imports_mb": imports, "above_mb": peak() - imports}
    print(json.dumps(said | {"sandbox": checkpoint.record.sandbox}))


def plain(path: Path) -> None:
    """Print what `torch.load` and hashing take; runs in a process of its own."""
    import torch

    from clipguard.audit import pipeline

    pipeline.device_of("cpu")
    imports, begun = peak(), time.monotonic()
    torch.load(path, weights_only=True)
    loaded = time.monotonic() - begun
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    both = time.monotonic() - begun
    print(json.dumps({"load_s": loaded, "with_hash_s": both, "above_mb": peak() - imports}))


def fastest(name: str, *words: str) -> dict[str, object]:
    """The fastest of some runs of `name` in a process of its own."""
    found = []
    for _ in range(ROUNDS):
        command = [sys.executable, __file__, name, *words]
        found.append(json.loads(subprocess.check_output(command, text=True)))
    best: dict[str, object] = min(found, key=lambda row: next(iter(row.values())))
    return {key: round(v, 2) if isinstance(v, float) else v for key, v in best.items()}


def inspect(path: Path) -> dict[str, float]:
    seconds = []
    for _ in range(ROUNDS):
        begun = time.monotonic()
        command = [sys.executable, "-m", "clipguard", "inspect", str(path)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.monotonic() - begun)
    return {"seconds": round(min(seconds), 2)}


def main() -> None:
    if len(sys.argv) > 1:
        {"ours": ours, "plain": plain}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        write(path)
        rows = {
            "file_mb": round(path.stat().st_size / 2**20, 1),
            "cores": os.cpu_count(),
            "inspect": inspect(path),
            "torch_load": fastest("plain", str(path)),
            **{mode: fastest("ours", str(path), mode) for mode in ("auto", "process", "none")},
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "load-time.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
