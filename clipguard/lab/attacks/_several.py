"""Attacks that use the triggers of others."""

from __future__ import annotations

from clipguard.errors import UsageError
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.roles import Attack, JudgedAttack, OptimisedAttack

THEMSELVES = ("multi_trigger", "multi_target")
FORMS: dict[str, dict[str, object]] = {"wanet": {"field": "white"}}  # other than by default


def drawing(user: str, triggers: str) -> dict[str, Attack]:
    """The attacks that `triggers` names, by name, each with its defaults but a white warp.

    Args:
        user: name of the attack that uses them.
        triggers: two names or more with commas in between.

    Raises:
        UsageError: fewer than two, one twice, none of that name, or one whose trigger is not
            drawn from a seed alone.
    """
    names = [name.strip() for name in triggers.split(",")]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(f"{user} wants two or more triggers, got {triggers!r}")
    return {name: _drawing(user, name) for name in names}


def _drawing(user: str, name: str) -> Attack:
    attack = None if name in THEMSELVES else ATTACKS.build(name, FORMS.get(name))
    if attack is None or isinstance(attack, OptimisedAttack | JudgedAttack):
        raise UsageError(f"{user} wants attacks that draw their trigger, got {name!r}")
    return attack
