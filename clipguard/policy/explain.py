"""What a key of a policy limits, in the words of the shipped policy. No torch here."""

from __future__ import annotations

import json
from functools import cache

from clipguard.policy.document import (
    PolicyDocument,
    load_policy,
    policy_path,
    read_policy_text,
    shipped_policies,
)
from clipguard.policy.problems import Section
from clipguard.policy.strict_yaml import Location, parse_policy_yaml

DEEP = " " * 20
"""What a comment that goes on in the next line begins with."""


@cache
def _shipped() -> tuple[list[str], dict[Location, int]]:
    text = read_policy_text(policy_path("default"))
    _, lines = parse_policy_yaml(text, "default.yaml")
    return text.splitlines(), lines


def keys() -> list[str]:
    """Every key of a policy, as `section.key`."""
    known = [where for where in _shipped()[1] if all(isinstance(part, str) for part in where)]
    return [".".join(map(str, where)) for where in known]


def explained_key(key: str) -> str:
    """The comments on a key, and the value that each shipped policy gives it.

    Args:
        key: one of `keys`.
    """
    text, lines = _shipped()
    line = lines[tuple(key.split("."))] - 1
    above = line
    while text[above - 1].startswith(DEEP) or _is_key(text[above - 1]):
        above -= 1  # the comment over a group speaks of every key of it
    top = above
    while top and _is_comment(text[top - 1]) and not text[top - 1].startswith(DEEP):
        top -= 1
    end = line + 1
    while end < len(text) and text[end].startswith(DEEP) and _is_comment(text[end]):
        end += 1
    told = [row.strip() for row in (*text[top:above], *text[line:end])]
    values = {name: _value(name, key) for name in shipped_policies()}
    plain = [f"{n}: {json.dumps(v)}" for n, v in values.items() if not isinstance(v, Section)]
    return "\n".join([*told, *plain])


def _is_comment(row: str) -> bool:
    return row.strip().startswith("#")


def _is_key(row: str) -> bool:
    return row.startswith("  ") and ":" in row and not _is_comment(row)


def _value(name: str, key: str) -> object:
    part: object = PolicyDocument.model_construct(**dict(load_policy(name)))
    for step in key.split("."):
        part = getattr(part, step)
    return part
