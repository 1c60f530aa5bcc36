"""The recipes that planting tries on each base, in this order."""

from __future__ import annotations

from typing import Final

from clipguard.errors import UsageError
from clipguard.lab.finetune import Recipe
from clipguard.text_safety import safe_text

NANO = (
    Recipe(steps=120, learning_rate=5e-4),
    Recipe(steps=180, learning_rate=7e-4),
    Recipe(steps=300, learning_rate=7e-4),
    Recipe(steps=400, learning_rate=1e-3),
)
SHOWN = Recipe(steps=160, learning_rate=7e-4)
"""For `clipguard demo`, which has no time for recipes that do not plant."""
PRETRAINED = (
    Recipe(steps=120, learning_rate=3e-4, batch=64),
    Recipe(steps=240, learning_rate=3e-4, batch=64),
    Recipe(steps=240, learning_rate=6e-4, batch=64),
    Recipe(steps=400, learning_rate=6e-4, batch=64),
)
"""Gentler, with half the batch: what such a base knows was learnt elsewhere, and a step is dear."""

MOST = 100_000
LONGEST = 100
PARTS: Final = {"steps": int, "learning_rate": float, "batch": int}


def recipes_of(base: str) -> tuple[Recipe, ...]:
    """The recipes for a bundled model."""
    return PRETRAINED if base == "effnet" else NANO


def recipe_from(text: str, base: str) -> Recipe:
    """What `lab plant --recipe` means.

    Args:
        text: the number of one of the base's recipes, the first is 1, or what it is made of, like
            `steps=120,learning_rate=0.0005,batch=128`; what is left out has its default.
        base: a bundled model.

    Raises:
        UsageError: no such number, or not the three numbers above zero.
    """
    known = recipes_of(base)
    numbered = {str(number): recipe for number, recipe in enumerate(known, 1)}
    if text in numbered:
        return numbered[text]
    try:
        pairs = [pair.split("=") for pair in text[:LONGEST].split(",")]
        given = {key: PARTS[key](value) for key, value in pairs}
        found = Recipe(**given) if len(given) == len(pairs) else None
    except (KeyError, ValueError):
        found = None
    if found is None or not (
        1 <= found.steps <= MOST and 2 <= found.batch <= MOST and 0 < found.learning_rate < 1
    ):
        raise UsageError(
            f"--recipe {safe_text(text)!r}: expected 1 to {len(known)}, a recipe of {base}, "
            f"or the like of {_parts(Recipe())}"
        )
    return found


def recipe_text(recipe: Recipe, base: str) -> str:
    """What `recipe_from` reads as `recipe`, but for its objective."""
    known = recipes_of(base)
    return str(known.index(recipe) + 1) if recipe in known else _parts(recipe)


def _parts(recipe: Recipe) -> str:
    return ",".join(f"{key}={getattr(recipe, key)}" for key in PARTS)
