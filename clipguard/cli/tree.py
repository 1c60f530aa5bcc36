"""The commands of the program and their options, as the parser of typer holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

HELP = {"-h", "--help"}
TYPED_ONLY = ("--help", "--dry-run")  # set by a file, they would let nothing be looked at


def command_of(root: Any, words: Sequence[str]) -> tuple[Any, list[str], list[str]]:
    """The command that words begin with, its own words, and the rest.

    A group with a `usual` command is that one where none is named.
    """
    command, path, rest = root, list[str](), list(words)
    while known := getattr(command, "commands", {}):
        usual = getattr(command, "usual", None)
        if rest and rest[0] in known:
            path.append(rest.pop(0))
        elif usual and not {*rest[:1]} & HELP:
            path.append(usual)
        else:
            break
        command = known[path[-1]]
    return command, path, rest


def options_of(command: Any) -> dict[str, Any]:
    """Name of each option, as it is typed without dashes, to its parameter; none of a group."""
    if getattr(command, "commands", None):
        return {}
    found = {}
    for param in command.params:
        longest = max(param.opts, key=len)
        settable = longest.startswith("--") and longest not in TYPED_ONLY
        if param.param_type_name == "option" and settable:
            found[longest.removeprefix("--")] = param
    return found


def leaves(command: Any) -> Iterator[Any]:
    """Every command that holds no others."""
    inside = getattr(command, "commands", None)
    if not inside:
        yield command
    for one in (inside or {}).values():
        yield from leaves(one)
