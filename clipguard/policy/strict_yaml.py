"""YAML from a person's hands: no aliases, no duplicate keys, and every key keeps its line."""

from __future__ import annotations

import re
from collections.abc import Hashable

import yaml

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

SIZE_LIMIT = 64 * 1024
MAX_DIGITS = 100
Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The safe loader without the features that make a file say something else than it shows."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        node = super().compose_node(parent, index)
        if node is None or not node.tag.endswith((":int", ":float")):
            return node
        if len(node.value) > MAX_DIGITS:
            problem = f"a number of more than {MAX_DIGITS} digits"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                problem = "keys must be plain names"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"duplicate key {safe_text(key.value)!r}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads `1e-3` as text because it wants a dot; a person means the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse(text: str, name: str) -> tuple[object, dict[Location, int]]:
    """Read one YAML document.

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
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        return loader.construct_document(node), dict(_lines(node, ()))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}{_where(error)}; mend the YAML") from error


def _where(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f" line {error.problem_mark.line + 1}: {safe_text(error.problem)}"
    return f": {safe_text(error) or type(error).__name__}"


def _lines(node: yaml.Node, path: Location) -> list[tuple[Location, int]]:
    found: list[tuple[Location, int]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found.append(((*path, key.value), key.start_mark.line + 1))
            found.extend(_lines(value, (*path, key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found.append(((*path, index), value.start_mark.line + 1))
            found.extend(_lines(value, (*path, index)))
    return found
