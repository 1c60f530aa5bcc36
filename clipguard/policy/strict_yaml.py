"""YAML from a person's hands: plain values, no key twice, and every key keeps its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, Event
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

SIZE_LIMIT = 64 * 1024
DEEPEST = 10
LONGEST_VALUE = 1000
"""Characters. Python refuses to print an integer of some thousand digits, so no message could."""
HIDDEN = {"anchor": "anchors and aliases", "ctag": "tags", "version": "directives"}
"""Attributes of events that make a file say something else than it shows."""
Location = tuple[str | int, ...]


def parse_policy_yaml(text: str, name: str) -> tuple[object, dict[Location, int]]:
    """Read one YAML 1.2 document.

    Args:
        text: the document.
        name: what messages call it.

    Returns:
        Plain values, and the line (from 1) of every key by its path.

    Raises:
        UsageError: too large, not YAML, or with aliases, duplicate keys or tags.
    """
    if len(text.encode("utf-8", "replace")) > SIZE_LIMIT:
        raise UsageError(f"{name}: expected at most {SIZE_LIMIT // 1024} kB of YAML, got more")
    reader = YAML(typ="safe", pure=True)
    try:
        _require_plain(reader.parse(text))
        node = reader.compose(text)
        if node is None:
            return None, {}
        lines = dict(_lines(node, ()))
        return reader.constructor.construct_document(node), lines
    except (YAMLError, ValueError, AssertionError) as error:  # ruamel asserts YAML's version
        raise UsageError(f"{name}{_where(error)}; mend the YAML") from error


def _where(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f" line {error.problem_mark.line + 1}: {safe_text(error.problem)}"
    return f": {safe_text(error) or type(error).__name__}"


def _require_plain(events: Iterable[Event]) -> None:
    """Stops at the first bad event: to read deep nesting to its end takes minutes."""
    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise _wrong(f"more than {DEEPEST} levels are not allowed", event)
        if len(getattr(event, "value", "")) > LONGEST_VALUE:
            raise _wrong(f"values of more than {LONGEST_VALUE} characters are not allowed", event)
        for attribute, what in HIDDEN.items():
            if getattr(event, attribute, None):
                raise _wrong(f"{what} are not allowed", event)


def _wrong(problem: str, place: Event | Node) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _lines(node: Node, path: Location) -> Iterator[tuple[Location, int]]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if not key.tag.endswith(":str"):
                raise _wrong("keys must be plain names", key)
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index))
