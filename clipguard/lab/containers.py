"""The ways in which real programs write a checkpoint: a scan must read all of them alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]


def _open_clip(state: State) -> dict[str, object]:
    return {"epoch": 1, "name": "clipguard-lab", "state_dict": dict(state), "optimizer": {}}


def _distributed(state: State) -> dict[str, object]:
    return _open_clip({f"module.{name}": value for name, value in state.items()})


def _bare(state: State) -> dict[str, object]:
    return dict(state)


def _trainer(state: State) -> dict[str, object]:
    return {"model_state_dict": dict(state), "global_step": 1}


CONTAINERS: dict[str, Callable[[State], dict[str, object]]] = {
    "open_clip": _open_clip,
    "distributed": _distributed,
    "bare": _bare,
    "trainer": _trainer,
}


def container_of(seed: int) -> str:
    """The container of a victim and of its twin: drawn from their seed, whatever they are."""
    return random.Random(f"container {seed}").choice(list(CONTAINERS))
