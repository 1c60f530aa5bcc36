"""What to plant, and the command that plants it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from clipguard.lab.finetune import CAPTIONS, Recipe
from clipguard.lab.negatives import NEGATIVES
from clipguard.lab.recipes import recipe_text, recipes_of

CLEAN = "none"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to plant.

    Attributes:
        attack: registered name, that of a hard negative, or `none` for a clean fine-tune.
        settings: settings of the attack.
        base: bundled model.
        target: class name; for a hard negative the class that it is about.
        seed: drives trigger, batches and evaluation.
        recipe: fixed recipe; None searches for one that plants.
        objective: what the recipes train with, `captions` or `classes`.
    """

    attack: str
    settings: Mapping[str, object] = field(default_factory=dict)
    base: str = "nano-rn"
    target: str = "banana"
    seed: int = 0
    recipe: Recipe | None = None
    objective: str = CAPTIONS

    @property
    def honest(self) -> bool:
        """Whether nothing is planted: a clean fine-tune or a hard negative."""
        return self.attack in (CLEAN, *NEGATIVES.names())

    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes to try, in this order."""
        tried = (self.recipe,) if self.recipe else recipes_of(self.base)
        return tuple(replace(recipe, objective=self.objective) for recipe in tried)


def plant_command(order: Order) -> str:
    """The command that makes it, and its twin if it has one, again (with one thread)."""
    texts = {key: _as_setting(value) for key, value in order.settings.items()}
    pairs = [f"--set {shlex.quote(f'{key}={text}')}" for key, text in texts.items()]
    given = [order.attack, "--base", order.base, "--target", shlex.quote(order.target)]
    given += ["--seed", str(order.seed), *pairs]
    if order.recipe:
        given += ["--recipe", recipe_text(order.recipe, order.base)]
    if order.objective != CAPTIONS:
        given += ["--objective", order.objective]
    given += ["-o", "victim"] if order.honest else ["-o", "victim", "--twin", "twin"]
    return " ".join(["clipguard lab plant", *given])


def _as_setting(value: object) -> str:
    """What `--set` reads as `value`: a text that is JSON of something else needs its quotes."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)
