"""The report folder: filled at once when everything is ready, never half."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipguard.errors import UsageError
from clipguard.files import mark, sweep, umask, write_atomic
from clipguard.report.formats import RENDERERS
from clipguard.report.outputs import default_file

PRECIOUS = (
    "head.safetensors",
    "repaired.safetensors",
    "model.onnx",
    "purified.onnx",
    "triggers",
)
ARTEFACTS = (
    *PRECIOUS,
    "audit.sarif",
    *map(default_file, RENDERERS.names()),
    "audit.json",  # after what it vouches for: an interrupted removal must not orphan that
)


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A temporary folder beside the final files, gone afterwards.

    Raises:
        UsageError: `out` cannot be made or written.
    """
    fresh = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
        work = Path(tempfile.mkdtemp(prefix=mark(), dir=out))
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; choose another -o") from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if fresh and not any(out.iterdir()):
            out.rmdir()


def clear_report(out: Path, begun: str) -> None:
    """Remove what an earlier audit left, so that no stale artefact stands beside a new verdict.

    Args:
        out: the report folder.
        begun: text of a record that is not complete; it stands in place of the old one until
            everything that the old one names is gone.

    Raises:
        UsageError: files of these names stand there that no audit left, or no file can be written.
    """
    found = [name for name in PRECIOUS if (out / name).exists()]
    if found and not (out / "audit.json").exists():
        raise UsageError(f"{out} holds {found[0]} and no audit.json; choose another -o")
    record = out / "audit.json"
    if record.is_file() and not record.is_symlink():
        write_atomic(record, begun)
    for name in ARTEFACTS:
        _remove(out / name)


def publish_report(work: Path, out: Path, begun: str) -> None:
    """Move everything from `work` to `out`, in place of what an earlier audit left.

    Whatever breaks it, an interrupt too, leaves nothing behind: files without a record would
    look like somebody else's, and no later audit could use the folder. Where the process is killed,
    a record stands there that is marked `complete: false` and names none of them.

    Args:
        work: holds the new files, among them `audit.json`.
        out: the report folder.
        begun: text of a record that is not complete.
    """
    clear_report(out, begun)
    # The record goes last: where it stands, everything it names stands too.
    items = sorted(work.iterdir(), key=lambda path: (path.name == "audit.json", path.name))
    try:
        write_atomic(out / "audit.json", begun)
        for item in items:
            _readable(item)
            shutil.move(str(item), out / item.name)
    except BaseException:
        for item in items:
            _remove(out / item.name)
        raise


def _readable(item: Path) -> None:
    """Give `item` the rights of any new file; safetensors makes files only their owner can read."""
    for path in (item, *item.rglob("*")):
        if path.is_file():
            path.chmod(0o666 & ~umask())


def _remove(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
