"""How long the commands of a release job take that need no torch.

    python benchmarks/cli_time.py

Runs each as a whole process, five times, and prints the least wall time, the least processor time
and the bound of each. Where the machine is busy the processor time is the one to read. The record
is one with 1000 targets, which is larger than that of any scan. Nothing is written.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from many_records import thousand

from clipguard.record.schema import dumps

COMMANDS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("--help",), 0.4),
    (("gate", "audit.json"), 0.5),
    (("report", "render", "audit.json"), 2.0),
)
RUNS = 5


def spent(command: tuple[str, ...], folder: str) -> tuple[float, float]:
    """Least wall and processor seconds of a command."""
    best = [float("inf"), float("inf")]
    for _ in range(RUNS):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "clipguard", *command],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 1):
            sys.exit(f"{' '.join(command)} ended with {done.returncode}")
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = [min(best[0], wall), min(best[1], processor)]
    return best[0], best[1]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    print("| command | wall, s | processor, s | bound, s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "audit.json").write_text(dumps(thousand()), encoding="ascii")
        for command, bound in COMMANDS:
            wall, processor = spent(command, folder)
            print(f"| `{' '.join(command)}` | {wall:.2f} | {processor:.2f} | {bound:g} |")


if __name__ == "__main__":
    main()
