"""The recipes that planting tries on each base, in this order."""

from __future__ import annotations

from clipguard.lab.finetune import Recipe

NANO = (
    Recipe(steps=120, learning_rate=5e-4),
    Recipe(steps=180, learning_rate=7e-4),
    Recipe(steps=300, learning_rate=7e-4),
    Recipe(steps=400, learning_rate=1e-3),
)
PRETRAINED = (
    Recipe(steps=120, learning_rate=3e-4, batch=64),
    Recipe(steps=240, learning_rate=3e-4, batch=64),
    Recipe(steps=240, learning_rate=6e-4, batch=64),
    Recipe(steps=400, learning_rate=6e-4, batch=64),
)
"""Gentler, with half the batch: what such a base knows was learnt elsewhere, and a step is dear."""


def recipes_of(base: str) -> tuple[Recipe, ...]:
    """The recipes for a bundled model."""
    return PRETRAINED if base == "effnet" else NANO
