"""One model of a zoo, made in a process of its own: `python -m clipguard.lab.zoo.worker`.

Reads one line of JSON from standard input. The pipe stays open while the builder lives: when it
closes, the builder was killed and nobody waits for the result any more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import torch

from clipguard.errors import ClipguardError, UsageError
from clipguard.lab.finetune import Recipe
from clipguard.lab.order import Order, plant_command
from clipguard.lab.plant import plant
from clipguard.lab.victim_folder import write_victim
from clipguard.lab.zoo.presets import id_of

ORPHANED = 1


def main() -> int:
    """Make the model (and its twin) that standard input orders.

    Returns:
        Exit code; a failure is explained in the last line of standard error.
    """
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_builder, daemon=True).start()
    torch.set_num_threads(1)
    recipe, folder = given["order"].pop("recipe"), Path(given["folder"])
    order = Order(**given["order"], recipe=Recipe(**recipe) if recipe else None)
    try:
        if id_of(order) != given["id"]:
            raise UsageError("methods or data changed since the build began; start it again")
        victim, twin = plant(order, progress=lambda stage, done, total: None)
        write_victim(victim, folder / "victim", command=plant_command(order))
        if victim.trigger is not None:
            write_victim(twin, folder / "twin", command=plant_command(order))
    except (ClipguardError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _end_with_the_builder() -> None:
    sys.stdin.read()
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
