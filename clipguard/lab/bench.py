"""The benchmark matrix: every method on every victim of a split, resumable cell by cell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from clipguard import __version__
from clipguard.errors import ClipguardError, UsageError
from clipguard.lab.bench_cells import (
    DetectCell,
    Kind,
    Order,
    PurifyCell,
    fingerprint,
    read_cell,
    require_methods,
)
from clipguard.lab.bench_pages import to_html, to_markdown
from clipguard.lab.bench_record import HEADLINE, WEAK, Bench, category
from clipguard.lab.bench_report import matrix, row_of, score
from clipguard.lab.bench_run import Job, run_job
from clipguard.lab.looks import count_looks, log_look, look_at
from clipguard.lab.zoo_manifest import Entry, Zoo, read_zoo
from clipguard.outputs import write_atomic
from clipguard.types import Progress

Split = Literal["calibration", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole benchmark, of which one process may run a part.

    Attributes:
        order: what is run on every victim.
        folder: of the zoo.
        zoo: its manifest.
        out: output folder.
        split: which victims.
        entries: those victims, at least one.
        prints: method to the fingerprint of its cells.
        command: how to make it again, without paths.
    """

    order: Order
    folder: Path
    zoo: Zoo
    out: Path
    split: Split
    entries: tuple[Entry, ...]
    prints: dict[str, str]
    command: str


def make_plan(order: Order, folder: Path, out: Path, *, split: Split, command: str) -> Plan:
    """Read the zoo and choose the victims.

    Raises:
        UsageError: an unknown method, no readable zoo, nothing to run on, or no place for `out`.
    """
    require_methods(order.kind, order.methods)
    zoo = read_zoo(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; choose another -o") from error
    return Plan(
        order=order,
        folder=folder,
        zoo=zoo,
        out=out,
        split=split,
        entries=chosen(zoo, order.kind, split),
        prints={method: fingerprint(order, method) for method in order.methods},
        command=command,
    )


def chosen(zoo: Zoo, kind: Kind, split: Split) -> tuple[Entry, ...]:
    """The built victims of `split`; to purify, those with an image trigger and a built twin.

    Raises:
        UsageError: there is none.
    """
    built, known = [entry for entry in zoo.built() if _of(entry, split)], zoo.by_id()
    if kind == "purify":
        built = [
            entry
            for entry in built
            if entry.kind == "poisoned"
            and category(entry) in (HEADLINE, WEAK)
            and entry.twin is not None
            and known[entry.twin].sha256 is not None
        ]
    if not built:
        wanted = "victims with a clean twin" if kind == "purify" else "models"
        raise UsageError(f"the zoo has no built {wanted} in split {split}; build it first")
    return tuple(built)


def _of(entry: Entry, split: Split) -> bool:
    return split in ("all", entry.split)


def run(plan: Plan, *, part: tuple[int, int], jobs: int, progress: Progress) -> Bench:
    """Run what is missing of one part, and write the table of all cells that exist.

    A cell is made again when model, code or settings are no longer those it was made with, or
    when something broke in it.

    Args:
        plan: the whole benchmark.
        part: index from 0, and number of parts; every such victim is this process's.
        jobs: processes to use.
        progress: told after every victim.

    Raises:
        UsageError: the part is empty, or something cannot be written.
        ClipguardError: a process was killed.
    """
    mine = plan.entries[part[0] :: part[1]]
    if not mine:
        raise UsageError(f"part {part[0]}/{part[1]} of {len(plan.entries)} victims is empty")
    if any(entry.split == "test" for entry in plan.entries):
        look = look_at(plan.zoo, plan.order.kind, plan.prints, plan.entries, plan.command)
        log_look(plan.folder, look)
    todo = [job for entry in mine if (job := _job(plan, entry)).methods]
    for done, _ in enumerate(_each(todo, jobs)):
        progress(f"{plan.order.kind} {', '.join(plan.order.methods)}", done + 1, len(todo))
    made = report(plan)
    data = json.dumps(made.model_dump(mode="json"), indent=1, allow_nan=False)
    write_atomic(plan.out / "bench.json", data + "\n")
    write_atomic(plan.out / "bench.md", to_markdown(made))
    write_atomic(plan.out / "bench.html", to_html(made, plan.out))
    return made


def _job(plan: Plan, entry: Entry) -> Job:
    """What is missing of one victim."""
    cells = {method: _cell(plan, entry, method) for method in plan.order.methods}
    missing = [m for m, cell in cells.items() if cell is None or cell.error is not None]
    return Job(
        order=plan.order,
        zoo=plan.folder,
        out=plan.out,
        entry=entry,
        twin=_twin(plan, entry),
        methods=tuple(missing),
    )


def _twin(plan: Plan, entry: Entry) -> Entry | None:
    return None if entry.twin is None else plan.zoo.by_id()[entry.twin]


def _cell(plan: Plan, entry: Entry, method: str) -> DetectCell | PurifyCell | None:
    if plan.order.kind == "detect":
        return read_cell(DetectCell, plan.out, entry, method, plan.prints[method])
    cell, twin = (
        read_cell(PurifyCell, plan.out, entry, method, plan.prints[method]),
        _twin(plan, entry),
    )
    return cell if cell and twin and cell.twin_sha256 == twin.sha256 else None


def _each(todo: list[Job], jobs: int) -> Iterator[None]:
    """Run the jobs, here or in processes of their own; what is done stays done."""
    if jobs == 1:
        for job in todo:
            run_job(job)
            yield
        return
    # Spawned, because a fork of a process with torch's threads may hang.
    pool = ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn"))
    try:
        for future in as_completed([pool.submit(run_job, job) for job in todo]):
            yield future.result()
    except BrokenProcessPool as error:
        raise ClipguardError(
            "a process of the benchmark was killed, perhaps for its memory; "
            "run it again with fewer --jobs, finished cells are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def report(plan: Plan) -> Bench:
    """The record of all cells that exist, whoever made them.

    Raises:
        UsageError: the log of looks cannot be read.
    """
    rows = tuple(
        row_of(entry, method, _cell(plan, entry, method))
        for method in plan.order.methods
        for entry in plan.entries
    )
    scores = {m: score([row for row in rows if row.method == m]) for m in plan.order.methods}
    unbuilt = [e for e in plan.zoo.entries if e.sha256 is None and _of(e, plan.split)]
    return Bench(
        kind=plan.order.kind,
        preset=plan.zoo.preset,
        zoo=plan.zoo.digest,
        split=plan.split,
        methods=plan.order.methods,
        seed=plan.order.seed,
        command=plan.command,
        version=__version__,
        looks=count_looks(plan.folder),
        cells=len(rows),
        not_run=sum(row.cell is None for row in rows),
        broken=sum(row.cell is not None and row.cell.error is not None for row in rows),
        unbuilt=len(unbuilt),
        scores=scores if plan.order.kind == "detect" else {},
        table=matrix(rows),
        rows=rows,
    )
