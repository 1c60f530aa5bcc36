"""Kill a zoo's build at random, resume it, and compare it with one that nobody disturbed.

    clipguard lab zoo build build/whole --preset ci
    python benchmarks/kill_zoo.py --like build/whole --work build/killed

The builder gets SIGKILL three times, each after a time drawn from `--seed`; then the build is run
to its end. Prints one line of JSON and exits with 1 unless three builds were killed, one of them
with whole models behind it and others before it, the zoo is whole, and both have the same digest.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from clipguard.lab.zoo.check import verify_zoo
from clipguard.lab.zoo.manifest import read_zoo

KILLS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--like", type=Path, required=True, help="the zoo built without a kill")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=120, help="seconds before a kill, at most")
    given = parser.parse_args()
    whole, dice = read_zoo(given.like), random.Random(f"kill {given.seed}")
    command = [sys.executable, "-m", "clipguard", "lab", "zoo", "build", str(given.work)]
    command += ["--preset", whole.preset]
    killed = []
    for _ in range(KILLS):
        running = subprocess.Popen(command)
        wait = dice.uniform(5, given.longest)
        try:
            running.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            running.kill()  # the builder alone; its workers must find out
            running.wait()
            killed.append({"after_s": round(wait, 1), "built": built(given.work)})
    begun = time.monotonic()
    subprocess.run(command, check=True)
    made = read_zoo(given.work)
    told = {"killed": killed, "rest_s": round(time.monotonic() - begun), "digest": made.digest[:16]}
    told |= {"same": made.digest == whole.digest, "wrong": verify_zoo(given.work)}
    print(json.dumps(told))
    orders = len([entry for entry in whole.entries if entry.path.endswith("/victim")])
    half = any(0 < kill["built"] < orders for kill in killed)
    return 0 if told["same"] and not told["wrong"] and len(killed) == KILLS and half else 1


def built(folder: Path) -> int:
    """Orders that are whole."""
    return len([*(folder / "victims").glob("*/victim/model.pt")])


if __name__ == "__main__":
    sys.exit(main())
