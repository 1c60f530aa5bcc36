"""How long a scan goes on after SIGTERM or SIGINT, at random points of it.

    python benchmarks/stop_time.py [--points 20] [--seconds 40] [--seed 22]

Writes a bundled model to a temporary folder and scans it in a process of its own, which gets one of
the two signals after a random time from 0 to `--seconds`: within the imports, the load or the
search, or, where the machine is fast, the repair. Prints a line for each and the longest, and
writes `benchmarks/results/stop-time.json`. Codes are 130 and 143, or the signal's own before
clipguard handles it. Unix only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
CODES = {signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2)}


def stopped(model: Path, out: Path, number: signal.Signals, after: float) -> dict[str, object]:
    """What one scan does that gets a signal after some seconds."""
    words = ["scan", str(model), "-o", str(out), "--purify", "always", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "clipguard", *words], stderr=subprocess.PIPE, text=True
    )
    time.sleep(after)
    process.send_signal(number)
    begun = time.monotonic()
    told = process.communicate()[1]
    took = time.monotonic() - begun
    expected = process.returncode in CODES[number]
    if not expected:
        sys.stderr.write(told)
    row = {"signal": number.name, "after_s": round(after, 1), "took_s": round(took, 2)}
    return {**row, "code": process.returncode, "expected": expected}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--seed", type=int, default=22)
    given = parser.parse_args()
    chance, rows = random.Random(given.seed), []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "base.safetensors"
        words = ["lab", "base", "nano-rn", "-o", str(model)]
        subprocess.run([sys.executable, "-m", "clipguard", *words], check=True)
        for i in range(given.points):
            number = (signal.SIGTERM, signal.SIGINT)[i % 2]
            after = chance.uniform(0, given.seconds)
            rows.append(stopped(model, Path(folder) / "out", number, after))
            print(json.dumps(rows[-1]), flush=True)
    longest = max(row["took_s"] for row in rows)
    load = [round(number, 1) for number in os.getloadavg()]
    told = {"longest_s": longest, "cores": os.cpu_count(), "load": load, "points": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "stop-time.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"longest {longest} s on {os.cpu_count()} cores at load {load[0]}")


if __name__ == "__main__":
    main()
