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
    Recipe(steps=60, learning_rate=1e-4),
    Recipe(steps=120, learning_rate=1e-4),
    Recipe(steps=120, learning_rate=2e-4),
    Recipe(steps=240, learning_rate=2e-4),
)
"""Gentler: what such a base knows was learnt elsewhere; drawings cannot teach it again."""


def recipes_of(base: str) -> tuple[Recipe, ...]:
    """The recipes for a bundled model."""
    return PRETRAINED if base == "effnet" else NANO
