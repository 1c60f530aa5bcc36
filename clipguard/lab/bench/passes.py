"""Counts what goes through an image tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from clipguard.lab.bench.cells import Passes
from clipguard.model.open_clip import ImageTower
from clipguard.model.roles import ClipModel


@dataclass
class Tower:
    """Counts what goes through an image tower."""

    forward: int = 0
    backward: int = 0

    def record(self) -> Passes:
        """The counts so far."""
        return Passes(forward=self.forward, backward=self.backward)

    def _returned(self, gradient: Tensor) -> None:
        self.backward += len(gradient)

    @contextmanager
    def watching(self, model: ClipModel) -> Iterator[None]:
        """Count from here to the end of the block, for this model and every copy of it.

        A repair changes a copy, and some call the network and not the tower around it. So what
        counts is every call of a module of the kind that makes the embeddings.
        """
        tower = model.image_tower()
        kind = type(tower.visual if isinstance(tower, ImageTower) else tower)

        def seen(module: nn.Module, inputs: object, output: Any) -> None:
            if type(module) is not kind:
                return
            rows: Tensor = output[0] if isinstance(output, tuple) else output
            self.forward += len(rows)
            if rows.requires_grad:
                rows.register_hook(self._returned)  # type: ignore[no-untyped-call]

        handle = register_module_forward_hook(seen)
        try:
            yield
        finally:
            handle.remove()
