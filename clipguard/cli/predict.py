"""`clipguard predict`: read images with an exported classifier, without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguard.cli.arguments import Sandbox, SandboxMode
from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.export.session import Session

BATCH = 32
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def add_command(app: typer.Typer) -> None:
    """Add the command `predict`."""
    app.command()(predict)


def predict(
    model: Annotated[Path, typer.Argument(help="ONNX file that clipguard exported.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show per image.")] = 5,
    require_ep: Annotated[
        str | None,
        typer.Option(
            metavar="cuda|cpu",
            help="Fail if onnxruntime runs on another execution provider.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    sandbox: Sandbox = SandboxMode.auto,
) -> None:
    """Name what is in images, with an exported classifier. Needs no torch."""
    from clipguard.checkpoint.sandbox import Guard
    from clipguard.export.guarded import guarded_session

    files = _image_files(images)
    read: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    with guarded_session(model, require_ep, Guard(sandbox.value)) as session:
        for start in range(0, len(files), BATCH):
            read += _predict(session, files[start : start + BATCH], top, skipped)
    for entry in skipped:
        typer.echo(f"skipped: {safe_text(entry['reason'], 300)}", err=True)
    if not read:
        raise UsageError(
            f"expected images that can be read, got {len(skipped)} broken and none else; "
            "give a folder or files in PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"
        )
    if as_json:
        _show_json(session, read, skipped)
    else:
        _show_table(session, read, len(skipped))


def _image_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            files += sorted(inside)
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(
                f"expected an image or a folder, found nothing at {safe_text(path)}; check the path"
            )
    return files


def _predict(
    session: Session, files: Sequence[Path], top: int, skipped: list[dict[str, str]]
) -> Iterator[dict[str, Any]]:
    """One entry per readable image; what could not be read is added to `skipped`."""
    import numpy as np

    from clipguard.export.session import classify
    from clipguard.probe.images import RULE, load_image

    rule = {key: session.metadata[key] for key in RULE}
    loaded = {}
    for file in files:
        try:
            loaded[file] = load_image(file, session.image_size, **rule)
        except UsageError as error:
            skipped.append({"file": file.as_posix(), "reason": str(error)})
    if not loaded:
        return
    logits = classify(session, np.stack(list(loaded.values()))).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for file, row in zip(loaded, shares, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        classes = [{"class": session.class_names[i], "probability": float(row[i])} for i in best]
        yield {"file": file.as_posix(), "top": classes}


def _show_json(session: Session, read: list[dict[str, Any]], skipped: list[dict[str, str]]) -> None:
    document = {
        "model": session.name,
        "provider": session.provider,
        "sandbox": session.sandbox,
        "head": session.metadata["head"],
        "scope": session.metadata["scope"],
        "images": read,
        "skipped": skipped,
    }
    # an escape in JSON, and no command to a CI runner
    typer.echo(json.dumps(document, indent=2, allow_nan=False).replace("##", "#\\u0023"))


def _show_table(session: Session, read: list[dict[str, Any]], skipped: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for entry in read:
        for rank, best in enumerate(entry["top"]):
            # Text, never markup: names come from the file and from the folder.
            file = Text("" if rank else safe_text(entry["file"]))
            name = Text(safe_text(best["class"]))
            table.add_row(file, name, f"{best['probability']:.1%}")
        table.add_section()
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(f"read: {len(read)}, skipped: {skipped}, on {session.provider}"))
    console.print(Text(safe_text(session.metadata["scope"], 300)))
