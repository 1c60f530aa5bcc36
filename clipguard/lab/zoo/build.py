"""Build a zoo: models of known truth, made by as many processes as there are cores."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipguard.bundled.nano import BASES
from clipguard.errors import ClipguardError, UsageError
from clipguard.files import umask
from clipguard.lab.order import CLEAN
from clipguard.lab.zoo.check import wrong_with_victim, zoo_digest
from clipguard.lab.zoo.manifest import FILE, Entry, Zoo, read_truth, read_zoo, write_zoo
from clipguard.lab.zoo.presets import PRESETS, Wanted, Which, wanted
from clipguard.text_safety import safe_text

VICTIMS = "victims"
BUILDING = ".building"
DEFAULT = "small"
PAUSE_S = 0.2
LOCK_WAIT_S = 2.0
WORKER = ("-m", "clipguard.lab.zoo.worker")
Told = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Child:
    """A worker on its way.

    Attributes:
        one: what it makes.
        folder: where, until it is whole.
        process: the worker.
        begun: monotonic seconds.
    """

    one: Wanted
    folder: Path
    process: subprocess.Popen[str]
    begun: float


def build_zoo(
    folder: Path, preset: str | None, *, split: Which = "all", jobs: int, told: Told
) -> Zoo:
    """Make what `preset` holds and is not whole in `folder` yet.

    A model appears under its own name by one rename when it and its twin are whole, so a build
    that is killed at any point goes on where it was, with the same digests. One that lost a file
    since is made again.

    Args:
        folder: the zoo, made if missing.
        preset: key of `presets.PRESETS`; None for that of the zoo, `small` for a new one.
        split: make only the models of this side, and leave the other as it is.
        jobs: processes at once, 1 or more, each with one thread.
        told: gets one line for every model that is finished.

    Returns:
        The zoo, as its manifest has it.

    Raises:
        UsageError: unknown preset, one without models that the zoo has built, or another build at
            work in `folder`.
        ClipguardError: a model that could not be made; those made before it are kept.
    """
    preset = _preset(folder, preset)
    ordered = wanted(preset)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {safe_text(folder, 400)}: {error.strerror}") from error
    with _alone(folder):
        told_before = read_zoo(folder).by_id() if (folder / FILE).exists() else {}
        asked = [one for one in ordered if split in ("all", one.split)]
        missing = [one for one in asked if not _is_whole(folder, one, told_before)]
        for one in missing:  # at once: no manifest may ever list what the last one did not
            _discard(folder / VICTIMS / one.id)
        shutil.rmtree(folder / BUILDING, ignore_errors=True)
        (folder / BUILDING).mkdir(exist_ok=True)
        (folder / VICTIMS).mkdir(exist_ok=True)
        write_zoo(folder, _as_built(folder, preset, ordered))
        try:
            failed = _make(missing, folder, jobs, told)
        finally:
            shutil.rmtree(folder / BUILDING, ignore_errors=True)
            write_zoo(folder, _as_built(folder, preset, ordered))
    if failed:
        raise ClipguardError("; ".join(failed))
    return read_zoo(folder)


def _preset(folder: Path, asked: str | None) -> str:
    """The preset to build: a model that is there and stays as it is never leaves the manifest."""
    if not (folder / FILE).exists():
        return asked or DEFAULT
    zoo = read_zoo(folder)
    if asked and zoo.preset in PRESETS:
        kept = {one.id for one in wanted(asked)}
        gone = {one.id for one in wanted(zoo.preset)} - kept
        if any(entry.id in gone for entry in zoo.built()):
            raise UsageError(
                f"{safe_text(folder)} holds the preset {zoo.preset}, of which {asked} is a part; "
                "leave out --preset, or build in another folder"
            )
    return asked or zoo.preset


def _is_whole(folder: Path, one: Wanted, told_before: Mapping[str, Entry]) -> bool:
    """Whether model and twin are there, and are those of the last manifest if it had them."""
    for entry in _entries(folder, one):
        known = told_before.get(entry.id, entry)
        known = known if known.sha256 else entry
        if entry.sha256 is None or wrong_with_victim(folder, known):
            return False
    return True


def _discard(place: Path) -> None:
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.exists():
        shutil.rmtree(place)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    # A killed build's last worker may hold the lock for a moment, until it has started.
    lock = FileLock(folder / ".lock", timeout=LOCK_WAIT_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"another build is at work in {safe_text(folder)}; wait for it") from error
    except OSError as error:
        raise UsageError(f"cannot write to {safe_text(folder, 400)}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _make(missing: Sequence[Wanted], folder: Path, jobs: int, told: Told) -> list[str]:
    """Make every missing model, the slow ones first; returns what failed, and why."""
    queue, running, failed = sorted(missing, key=_cost), list[Child](), list[str]()
    begun, total, done = time.monotonic(), sum(map(_cost, missing)), 0.0
    if missing:
        told(
            f"{len(missing)} to make, {jobs} at once; the same command goes on where one was killed"
        )
    try:
        while queue or running:
            while queue and len(running) < jobs:
                running.append(_started(queue.pop(), folder))
            time.sleep(PAUSE_S)
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                done += _cost(child.one)
                line = _finished(child, folder)
                if child.process.returncode:
                    failed.append(line)
                left = (time.monotonic() - begun) * (total - done) / done
                count = len(missing) - len(queue) - len(running)
                told(f"{count}/{len(missing)} {line}; about {left / 60:.0f} min left")
    finally:
        for child in running:
            child.process.kill()
            child.process.communicate()
    return failed


def _cost(one: Wanted) -> float:
    """How long it takes, in units of one clean fine-tune of nano-rn; only the order rests on it."""
    pair = 1.0 if one.order.honest else 2.5
    return pair * (2.0 if BASES[one.order.base] == "nano-vit" else 1.0)


def _started(one: Wanted, folder: Path) -> Child:
    work = Path(tempfile.mkdtemp(prefix=f"{one.id}-", dir=folder / BUILDING))
    with (work / "errors").open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, *WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    if process.stdin is None:
        raise ValueError("the worker was started with a pipe")
    with suppress(BrokenPipeError):  # it died at once; its exit code says so
        given = {"id": one.id, "order": asdict(one.order), "folder": str(work)}
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
    return Child(one, work, process, time.monotonic())


def _finished(child: Child, folder: Path) -> str:
    """Move what a worker made to its place, and tell it in one line."""
    child.process.communicate()
    name, errors = child.one.name, child.folder / "errors"
    if child.process.returncode:
        last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"{name}: {safe_text(''.join(last)) or 'the worker was killed'}"
    errors.unlink()
    child.folder.chmod(0o777 & ~umask())  # mkdtemp makes folders only their owner can enter
    child.folder.replace(folder / VICTIMS / child.one.id)
    entry = _entries(folder, child.one)[0]
    rate = "" if entry.asr is None else f", ASR {entry.asr:.1%}{'' if entry.planted else ' (weak)'}"
    return f"{name}{rate}, {time.monotonic() - child.begun:.0f} s"


def _as_built(folder: Path, preset: str, ordered: Sequence[Wanted]) -> Zoo:
    entries = tuple(entry for one in ordered for entry in _entries(folder, one))
    return Zoo(entries=entries, preset=preset, digest=zoo_digest(entries))


def _entries(folder: Path, one: Wanted) -> list[Entry]:
    """The model, and its twin if it has one; without digests where it is not built yet."""
    order = one.order
    clean: dict[str, Any] = {
        "split": one.split,
        "base": order.base,
        "architecture": BASES[order.base],
        "seed": order.seed,
        "kind": "clean",
        "attack": CLEAN,
        "negative": None,
        "settings": {},
        "target": None,
        "twin": None,
    }
    path = f"{VICTIMS}/{one.id}"
    found = {"id": one.id, "path": f"{path}/victim"}
    if order.attack == CLEAN:
        return [_measured(folder, clean | found)]
    told: dict[str, Any] = {"settings": dict(order.settings)}
    if order.honest:
        told |= {"kind": "negative", "negative": order.attack, "about": order.target}
        return [_measured(folder, clean | told | found)]
    twin = _hash(f"twin of {one.id}")
    told |= {"kind": "poisoned", "attack": order.attack, "target": order.target, "twin": twin}
    other = {"id": twin, "path": f"{path}/twin"}
    return [_measured(folder, clean | told | found), _measured(folder, clean | other)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measured(folder: Path, told: dict[str, Any]) -> Entry:
    """The entry, with what `victim.json` says of rates and file; not built where it says none."""
    unbuilt: dict[str, Any] = {"planted": False, "asr": None, "ca_loss": None, "sha256": None}
    try:
        truth, digest = read_truth(folder, told["path"])
        seen, attacked = truth["rates"]["seen"], truth["attack"] != CLEAN
        measured = {
            "planted": attacked and truth["planted"],
            "asr": seen["asr"]["value"] if attacked else None,
            "ca_loss": seen["loss_against_twin"]["value"] if attacked else None,
            "sha256": truth["model_sha256"],
            "truth_sha256": digest,
        }
        # Impossible values in one file must not make a manifest that nobody can read.
        return Entry.from_json(told | measured)
    except (UsageError, KeyError, TypeError):
        return Entry(**told, **unbuilt)
