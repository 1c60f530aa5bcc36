"""`clipguard inspect`: what is in a checkpoint, without loading it and without torch."""

from __future__ import annotations

import json
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguard.cli.arguments import Checkpoint, Sandbox, SandboxMode
from clipguard.errors import PASS, REFUSED, UsageError
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.checkpoint.contents import Contents
    from clipguard.checkpoint.known_shapes import Guess

SCHEMA = "clipguard.inspection/1"
ROWS = 12
WAIT = "told when it is loaded"


class Shown(str, Enum):
    """What to print."""

    text = "text"
    json = "json"


def add_command(app: typer.Typer) -> None:
    """Add the command `inspect`."""
    app.command()(inspect)


def inspect(
    model: Checkpoint,
    shown: Annotated[Shown, typer.Option("--format", "-f", help="What to print.")] = Shown.text,
    as_json: Annotated[bool, typer.Option("--json", help="The same as -f json.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every tensor.")] = False,
    sandbox: Sandbox = SandboxMode.auto,
) -> None:
    """Say what is in a checkpoint and whether `scan` loads it, without loading it.

    Exit code 0: it does, unless no architecture fits or a number is not finite, which only
    loading tells. 4: it is refused.
    """
    from clipguard.checkpoint.guarded import guarded_contents
    from clipguard.checkpoint.known_shapes import guess
    from clipguard.checkpoint.sandbox import Guard

    if every and (as_json or shown is Shown.json):
        raise UsageError("--all has no effect on JSON, which lists every tensor; leave it out")
    found = guarded_contents(model, Guard(sandbox.value))
    told = guess(model, {tensor.name: tensor.shape for tensor in found.tensors})
    if as_json or shown is Shown.json:
        text = json.dumps(_document(model, found, told), indent=2, allow_nan=False)
        typer.echo(text.replace("##", "#\\u0023"))  # no command to a CI runner that prints it
    else:
        typer.echo("\n".join(_lines(model, found, told, every)))
    raise typer.Exit(PASS if found.refusal is None else REFUSED)


def _document(path: Path, found: Contents, told: Guess | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA,
        "name": safe_text(path.name or path.absolute().name),
        "weights_file": safe_text(found.weights_file),
        "container": found.container or None,
        "layout": found.form or None,
        "architecture": {"name": told.name, "how": told.how} if told else None,
        "size_bytes": found.size_bytes,
        "sha256": found.sha256 or None,
        "sandbox": found.sandbox,
        "loads": _loads(found),
        "advice": _advice(found, told),
        "findings": [_finding(text) for text in _findings(found)],
        "metadata": {safe_text(key): safe_text(value) for key, value in found.metadata},
        "other_tensors": found.other_tensors,
        "tensors": [
            {"name": safe_text(tensor.name), "shape": [*tensor.shape], "dtype": tensor.dtype}
            for tensor in found.tensors
        ],
    }


def _lines(path: Path, found: Contents, told: Guess | None, every: bool) -> list[str]:
    numbers = sum(tensor.numel for tensor in found.tensors)
    facts = {
        "weights file": safe_text(found.weights_file) if path.is_dir() else "",
        "container": found.container,
        "layout": safe_text(found.form),
        "architecture": f"{told.name} (by its {told.how})" if told else WAIT if found.form else "",
        "size": "" if found.size_bytes is None else f"{found.size_bytes:,} bytes",
        "sha256": found.sha256,
        "weights": f"{len(found.tensors)} tensors, {numbers:,} numbers" if found.tensors else "",
        "other tensors": str(found.other_tensors or ""),
        "read in": found.sandbox,
    }
    lines = [safe_text(path.name or path.absolute().name)]
    lines += [f"  {name:14}{value}" for name, value in facts.items() if value]
    lines += _block("metadata", [f"{safe_text(k)}: {safe_text(v)}" for k, v in found.metadata])
    lines += _block("findings", [safe_text(text, 1000) for text in _findings(found)])
    lines += _block("tensors", _table(found, every))
    verdict = "loads it" if _loads(found) else "refuses it"
    advice = _advice(found, told)
    return [*lines, "", f"scan {verdict}{'; ' if advice else ''}{advice}"]


def _is_head(found: Contents) -> bool:
    """Whether it has the tensors of what a repair writes beside a model, which is no checkpoint."""
    return {tensor.name for tensor in found.tensors} == {"context", "classes"}


def _loads(found: Contents) -> bool:
    return found.refusal is None and not _is_head(found)


def _block(title: str, rows: list[str]) -> list[str]:
    return ["", title, *(f"  {row}" for row in rows)] if rows else []


def _table(found: Contents, every: bool) -> list[str]:
    tensors = found.tensors if every else found.tensors[:ROWS]
    names = [safe_text(tensor.name) for tensor in tensors]
    width = max(map(len, names), default=0)
    rows = [
        f"{name:{width}}  {tensor.dtype:9} {' x '.join(map(str, tensor.shape)) or 'one number'}"
        for name, tensor in zip(names, tensors, strict=True)
    ]
    left = len(found.tensors) - len(rows)
    return [*rows, f"and {left} more; --all lists them"] if left else rows


def _findings(found: Contents) -> list[str]:
    return [*([] if found.refusal is None else [found.refusal]), *found.notes]


def _finding(text: str) -> dict[str, str]:
    rule = re.search(r"CG\d{3}", text)
    return {"rule": rule[0] if rule else "", "text": safe_text(text, 1000)}


def _advice(found: Contents, told: Guess | None) -> str:
    from clipguard.record.wording import REFUSALS

    if found.refusal is not None:
        return REFUSALS.get(_finding(found.refusal)["rule"], "do not load it")
    if _is_head(found):
        return "it looks like a head of clipguard; use it with export CHECKPOINT --head"
    return "" if told else "name the architecture with --arch if it finds none that fits"
