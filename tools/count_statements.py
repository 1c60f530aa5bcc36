"""Count the statements of the package and of its tests: `ast.stmt` nodes without docstrings.

    python tools/count_statements.py [FOLDER...]

Prints one line per folder, then one per package of `clipguard/`, and what is over the house's
limits: files of more than 300 lines, functions of more than 60.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE, MAX_FUNCTION = 300, 60


def statements(path: Path) -> int:
    """Statements in one file."""
    nodes = [node for node in ast.walk(parse(path)) if isinstance(node, ast.stmt)]
    return sum(not is_docstring(node) for node in nodes)


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a text that stands alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def too_long(path: Path) -> list[str]:
    """What is over the limits in one file."""
    shown = path.relative_to(ROOT)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    found = [f"{shown}: {lines} lines"] if lines > MAX_FILE else []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append(f"{shown}: {node.name} has {length} lines")
    return found


def main() -> None:
    """Print the counts."""
    folders = [Path(name) for name in sys.argv[1:]] or [Path("clipguard"), Path("tests")]
    for folder in folders:
        files = sorted((ROOT / folder).rglob("*.py"))
        print(f"{folder}: {sum(map(statements, files))} statements in {len(files)} files")
    package = ROOT / "clipguard"
    for part in sorted({path.parent for path in package.glob("*/*.py")}):
        print(f"  {part.name}: {sum(map(statements, part.rglob('*.py')))}")
    for path in sorted(package.rglob("*.py")):
        print("\n".join(too_long(path)), end="\n" if too_long(path) else "")


if __name__ == "__main__":
    main()
