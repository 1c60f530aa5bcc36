"""What `scan --dry-run` says a scan takes, beside what it takes.

    python benchmarks/dry_run.py

Makes the dry run and the scan of the bundled model in one process, alone and against itself, with
one thread. Seconds are of the processor, so that other work on the machine does not count. Prints
a table and writes `benchmarks/results/dry-run.json`. The goal: within a third. The last row is the
wall time of a dry run, as a whole process, on a ViT-B-32 with random weights; the goal is 8 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from load_time import ARCH, write

RESULTS = Path(__file__).parent / "results"


def measured(folder: Path, against: bool) -> dict[str, float | int]:
    """One dry run and one scan; runs in a process of its own."""
    import torch

    from clipguard.audit import dry_run, scan
    from clipguard.audit.machine import peak_memory
    from clipguard.audit.options import Options
    from clipguard.lab.victim_folder import write_base
    from clipguard.policy.judge import load_policy

    torch.set_num_threads(1)
    model = folder / "model.safetensors"
    write_base("nano-rn", model)
    options = Options(
        policy=load_policy("default"),
        purify="never",
        export="none",
        reference=model if against else None,
    )
    with mock.patch("time.monotonic", time.process_time):
        told = dry_run.dry_run(model, options, folder / "out", progress=lambda *_: None)
        begun = time.process_time()
        record = scan.audit(model, options, folder / "out", progress=lambda *_: None)
        spent = time.process_time() - begun
    said = told.load_s + told.forecast.search_s
    passes = record.detectors[0].passes or 0.0
    return {
        "said_s": round(said, 1),
        "took_s": round(spent, 1),
        "said_over_took": round(said / spent, 2),
        "said_mb": round(told.forecast.memory / 2**20),
        "took_mb": round((peak_memory() or 0) / 2**20),
        "said_passes": told.forecast.passes,
        "took_passes": passes,
    }


def whole_process(folder: Path) -> dict[str, float]:
    """Wall time of a dry run of a full-size model, the fastest of three."""
    model, seconds = folder / "model.pt", []
    write(model)
    for _ in range(3):
        command = [sys.executable, "-m", "clipguard", "scan", str(model), "--dry-run", "-q"]
        begun = time.monotonic()
        subprocess.run([*command, "--arch", ARCH], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.monotonic() - begun)
    return {"seconds": round(min(seconds), 1)}


def main() -> None:
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measured(Path(folder), sys.argv[1] == "against")))
        return
    rows = {}
    for kind in ("alone", "against"):
        command = [sys.executable, __file__, kind]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        rows[kind] = json.loads(subprocess.check_output(command, text=True, env=environment))
    with tempfile.TemporaryDirectory() as folder:
        rows[ARCH] = whole_process(Path(folder))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "dry-run.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
