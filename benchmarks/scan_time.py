"""Time and memory of a scan, beside its floor: the bare encoder passes it is made of.

    python benchmarks/scan_time.py MODEL

Runs `clipguard scan` as a whole process, detection only and with everything (`--purify always`),
and then times as many encoder passes as the detection needs, nothing else. Prints a table and
writes `benchmarks/results/scan-time.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from clipguard.audit.profiles import profile
from clipguard.bundled.nano import nano_network, normalise

RESULTS = Path(__file__).parent / "results"


def run(model: str, *options: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "clipguard", "scan", model, "-q", "-o", out, *options]
        begun = time.monotonic()
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        seconds = time.monotonic() - begun
    if code not in (0, 1, 3):
        sys.exit(f"scan ended with {code}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"seconds": round(seconds, 1), "peak_gib": round(peak, 2), "exit_code": code}


def gradient_images(detector: Any, classes: int) -> int:
    """Images encoded with gradients by one `TriggerInversion`, counted from its settings."""
    collapse, screen, targeted = detector.collapse, detector.screen, detector.targeted
    total: int = collapse.steps * collapse.batch * collapse.restarts
    alive, steps = classes, screen.steps
    while True:
        total += alive * steps * screen.images
        if alive <= 3:
            break
        alive, steps = max(3, alive // 4), steps * 2
    total += (detector.candidates + 1) * targeted.steps * targeted.batch
    return total * len(detector.families)


def floor(images: int) -> float:
    network = nano_network("nano-rn").to(memory_format=torch.channels_last)
    batch = torch.rand(32, 3, 64, 64).requires_grad_()
    begun = time.monotonic()
    for _ in range(images // 32):
        torch.autograd.grad(network.encode_image(normalise(batch)).sum(), batch)
    return round(time.monotonic() - begun, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    model = parser.parse_args().model
    rows: dict[str, object] = {"threads": torch.get_num_threads(), "cores": os.cpu_count()}
    rows["detection"] = run(model, "--purify", "never", "--export", "none")
    rows["everything"] = run(model, "--purify", "always")
    images = gradient_images(profile("standard").detector, 100)
    rows["floor"] = {"images_with_gradient": images, "seconds": floor(images)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scan-time.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
