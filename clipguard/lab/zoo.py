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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipguard.errors import UsageError
from clipguard.lab.plant import CLEAN
from clipguard.lab.presets import Wanted, wanted
from clipguard.lab.zoo_manifest import FILE, Entry, Zoo, read_zoo, write_zoo
from clipguard.methods import NEGATIVES
from clipguard.nano import BASES
from clipguard.text_safety import safe_text

VICTIMS = "victims"
BUILDING = ".building"
PAUSE_S = 0.2
LOCK_WAIT_S = 2.0
WORKER = ("-m", "clipguard.lab.zoo_worker")
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


def build(folder: Path, preset: str, *, jobs: int, told: Told) -> Zoo:
    """Make what `preset` holds and is not in `folder` yet.

    A model appears under its own name by one rename when it and its twin are whole, so a build
    that is killed at any point goes on where it was, with the same digests.

    Args:
        folder: the zoo, made if missing.
        preset: key of `presets.PRESETS`.
        jobs: processes at once, each with one thread.
        told: gets one line for every model that is finished.

    Returns:
        The zoo, as its manifest has it.

    Raises:
        UsageError: unknown preset, another build at work in `folder`, or a model that could not
            be made; those made before it are kept.
    """
    ordered = wanted(preset)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        missing = [one for one in ordered if not (folder / VICTIMS / one.id).exists()]
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
        raise UsageError("; ".join(failed))
    return read_zoo(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        # A killed build's last worker may hold the lock for a moment, until it has started.
        with FileLock(folder / ".lock", timeout=LOCK_WAIT_S):
            yield
    except Timeout as error:
        raise UsageError(f"another build is at work in {safe_text(folder)}; wait for it") from error


def _make(missing: Sequence[Wanted], folder: Path, jobs: int, told: Told) -> list[str]:
    """Make every missing model, the slow ones first; returns what failed, and why."""
    queue, running, failed = sorted(missing, key=_cost), list[Child](), list[str]()
    begun, total, done = time.monotonic(), sum(map(_cost, missing)), 0.0
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
    pair = 1.0 if one.order.attack in (CLEAN, *NEGATIVES.names()) else 2.5
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
    process.stdin.write(json.dumps({"order": asdict(one.order), "folder": str(work)}) + "\n")
    process.stdin.flush()
    return Child(one, work, process, time.monotonic())


def _finished(child: Child, folder: Path) -> str:
    """Move what a worker made to its place, and tell it in one line."""
    child.process.communicate()
    name, errors = child.one.name, child.folder / "errors"
    if child.process.returncode:
        last = errors.read_text(encoding="utf-8").strip().splitlines()[-1:]
        return f"{name}: {safe_text(''.join(last)) or 'the worker was killed'}"
    errors.unlink()
    child.folder.replace(folder / VICTIMS / child.one.id)
    entry = _entries(folder, child.one)[0]
    rate = "" if entry.asr is None else f", ASR {entry.asr:.1%}{'' if entry.planted else ' (weak)'}"
    return f"{name}{rate}, {time.monotonic() - child.begun:.0f} s"


def _as_built(folder: Path, preset: str, ordered: Sequence[Wanted]) -> Zoo:
    entries = tuple(entry for one in ordered for entry in _entries(folder, one))
    return Zoo(entries=entries, preset=preset, digest=digest_of(entries))


def digest_of(entries: Sequence[Entry]) -> str:
    """Digest of which models a zoo holds, and of their weights."""
    lines = sorted(f"{entry.id} {entry.sha256}" for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _entries(folder: Path, one: Wanted) -> list[Entry]:
    """The model, and its twin if it has one; without digests where it is not built yet."""
    order, twin = one.order, hashlib.sha256(f"twin of {one.id}".encode()).hexdigest()[:16]
    planted = order.attack not in (CLEAN, *NEGATIVES.names())
    negative = order.attack if order.attack in NEGATIVES.names() else None
    victim = Entry(
        id=one.id,
        kind="poisoned" if planted else "negative" if negative else "clean",
        split=one.split,
        base=order.base,
        architecture=BASES[order.base],
        attack=order.attack if planted else CLEAN,
        negative=negative,
        settings=dict(order.settings),
        target=order.target if planted else None,
        seed=order.seed,
        twin=twin if planted else None,
        path=f"{VICTIMS}/{one.id}/victim",
        **_measured(folder / VICTIMS / one.id / "victim"),
    )
    if not planted:
        return [victim]
    other = Entry(
        id=twin,
        kind="clean",
        split=one.split,
        base=order.base,
        architecture=BASES[order.base],
        attack=CLEAN,
        negative=None,
        settings={},
        target=None,
        seed=order.seed,
        twin=None,
        path=f"{VICTIMS}/{one.id}/twin",
        **_measured(folder / VICTIMS / one.id / "twin"),
    )
    return [victim, other]


def _measured(victim: Path) -> dict[str, Any]:
    """What `victim.json` says of the rates and of the file."""
    try:
        truth: Mapping[str, Any] = json.loads((victim / "victim.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"planted": False, "asr": None, "ca_loss": None, "sha256": None}
    seen = truth["rates"]["seen"]
    attacked = truth["attack"] != CLEAN
    return {
        "planted": attacked and truth["planted"],
        "asr": seen["asr"]["value"] if attacked else None,
        "ca_loss": seen["loss_against_twin"]["value"] if attacked else None,
        "sha256": truth["model_sha256"],
    }


def verify(folder: Path) -> list[str]:
    """What is wrong with a zoo: empty when every model is there and is the one of the manifest.

    Raises:
        UsageError: no readable manifest.
    """
    zoo = read_zoo(folder)
    wrong = []
    for entry in zoo.entries:
        model = folder / entry.path / "model.pt"
        if entry.sha256 is None:
            wrong.append(f"{entry.id}: not built yet")
        elif not model.is_file():
            wrong.append(f"{entry.id}: model.pt is missing")
        elif hashlib.sha256(model.read_bytes()).hexdigest() != entry.sha256:
            wrong.append(f"{entry.id}: model.pt is not the one of the manifest")
    if zoo.digest != digest_of(zoo.entries):
        wrong.append(f"{FILE}: its digest is not that of its entries")
    return wrong + _shared(zoo)


def _shared(zoo: Zoo) -> list[str]:
    """What stands on both sides, and must not."""
    wrong = []
    for what in ("base", "attack", "target", "seed"):
        sides = [
            {getattr(entry, what) for entry in zoo.entries if entry.split == split}
            for split in ("calibration", "test")
        ]
        both = sides[0] & sides[1] - {CLEAN, None}
        wrong += [f"{what} {safe_text(value)} stands on both sides" for value in sorted(both)]
    return wrong
