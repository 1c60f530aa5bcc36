"""The report folder: filled at once when everything is ready, never half."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from clipguard.errors import UsageError
from clipguard.files import mark, sweep, umask, write_atomic
from clipguard.report.formats import RENDERERS
from clipguard.report.outputs import default_file, is_ours, is_record
from clipguard.text_safety import safe_text

PRECIOUS = (
    "head.safetensors",
    "repaired.safetensors",
    "model.onnx",
    "purified.onnx",
    "triggers",
)
PAGES = {default_file(name): name for name in RENDERERS.names()}
"""File name of a rendering to its format."""
ARTEFACTS = (
    *PRECIOUS,
    "audit.sarif",
    *PAGES,
    "audit.json",  # after what it vouches for: an interrupted removal must not orphan that
)


LOCK = ".clipguard.lock"
LONGEST_PID = 20
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A temporary folder beside the final files, gone afterwards; nobody else gets one meanwhile.

    Raises:
        UsageError: `out` cannot be made or written, or another clipguard is at work in it.
    """
    fresh = not out.exists()
    with ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            held.callback(_remove_if_empty, out, fresh)
            held.enter_context(_alone(out))
            sweep(out)
            work = Path(tempfile.mkdtemp(prefix=mark(), dir=out))
        except OSError as error:
            shown = safe_text(out, 400)
            raise UsageError(
                f"cannot write to {shown}: {error.strerror}; choose another -o"
            ) from error
        held.callback(discard, work)
        yield work


def discard(work: Path) -> None:
    """Remove a workspace and what says that it is in use."""
    shutil.rmtree(work, ignore_errors=True)
    (work.parent / LOCK).unlink(missing_ok=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system gives that of a killed process free."""
    file = out / LOCK
    holder = _holder(file)
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        who = f" (process {holder})" if holder else ""
        raise UsageError(
            f"another clipguard{who} is at work in {safe_text(out, 400)}; wait for it, or choose "
            "another -o"
        ) from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        _sign(file)
        yield
    finally:
        file.unlink(missing_ok=True)  # before the lock is free, so that it is nobody else's file
        lock.release()


def _holder(file: Path) -> str:
    """The process that a lock file names, if any; a lock would empty a file of somebody else.

    Raises:
        UsageError: it is a link, has a second name, or holds anything but a number.
    """
    try:
        state = file.lstat()
    except FileNotFoundError:
        return ""
    plain = stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and state.st_size <= LONGEST_PID
    told = file.read_text("ascii", "replace").strip() if plain else "-"
    if told and not told.isdigit():
        raise UsageError(
            f"{safe_text(file, 400)} is no lock that clipguard wrote; move it, or choose another -o"
        )
    return told


def _sign(file: Path) -> None:
    """Write the number of this process into its lock, not into what was put in its place."""
    handle = os.open(file, os.O_WRONLY | NO_FOLLOW)
    try:
        if os.fstat(handle).st_nlink == 1:
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode("ascii"))
    finally:
        os.close(handle)


def _remove_if_empty(out: Path, fresh: bool) -> None:
    if fresh and not any(out.iterdir()):
        out.rmdir()


def require_ours(out: Path) -> None:
    """Refuse a report folder in which a file of somebody else would be replaced.

    Files of other tools have such names: `npm audit` writes an audit.json, pytest a report.html.

    Raises:
        UsageError: a file has the name of one of ours, and no audit left it.
    """
    known = is_record(out / "audit.json")
    for name in ARTEFACTS:
        target, page = out / name, PAGES.get(name)
        ours = known if page is None else is_ours(page, target)
        if (target.is_symlink() or target.exists()) and not ours:
            raise UsageError(
                f"{safe_text(out, 400)} holds {name}, which clipguard did not write; move it, or "
                "choose another -o"
            )


def require_writable(out: Path) -> None:
    """Refuse a report folder that could not be made or written, and make none.

    Raises:
        UsageError: a file is in the way, or the rights are missing.
    """
    there = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        shown = safe_text(out, 400)
        raise UsageError(
            f"cannot write to {shown}: no folder that may be written; choose another -o"
        )


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
