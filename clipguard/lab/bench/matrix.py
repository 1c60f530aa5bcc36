"""The benchmark matrix: every method on every victim of a split, resumable cell by cell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipguard import __version__
from clipguard.errors import UsageError
from clipguard.files import write_atomic
from clipguard.lab.bench.cells import (
    DetectCell,
    Kind,
    PurifyCell,
    Task,
    fingerprint,
    read_cell,
    require_methods,
    truth_digest,
)
from clipguard.lab.bench.job import Job, run_job
from clipguard.lab.bench.looks import Look, count_looks, log_look, look_at
from clipguard.lab.bench.pages import to_html, to_markdown
from clipguard.lab.bench.record import HEADLINE, WEAK, Bench, category
from clipguard.lab.bench.report import bench_row, bench_score, bench_table
from clipguard.lab.bench.workers import each_victim
from clipguard.lab.zoo.manifest import Entry, Zoo, read_zoo
from clipguard.lab.zoo.presets import Which, side_of
from clipguard.search.roles import Progress
from clipguard.text_safety import safe_text

FIGURES = "figures/2"
"""Rises when other figures are made of the same cells."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A whole benchmark, of which one process may run a part.

    Attributes:
        task: what is run on every victim.
        folder: of the zoo.
        zoo: its manifest.
        out: output folder.
        split: which victims.
        entries: those victims, at least one.
        prints: method to the fingerprint of its cells.
        truths: to purify, id of each victim to what `truth_digest` says of it.
        command: how to make it again, without paths.
    """

    task: Task
    folder: Path
    zoo: Zoo
    out: Path
    split: Which
    entries: tuple[Entry, ...]
    prints: Mapping[str, str]
    truths: Mapping[str, str]
    command: str

    def twin_of(self, entry: Entry) -> Entry | None:
        """The clean twin of `entry`, if it has one."""
        return None if entry.twin is None else self.zoo.by_id()[entry.twin]


def make_matrix(task: Task, folder: Path, out: Path, *, split: Which, command: str) -> Matrix:
    """Read the zoo and choose the victims.

    Raises:
        UsageError: an unknown method, no readable zoo, nothing to run on, or no place for `out`.
    """
    require_methods(task.kind, task.methods)
    zoo = read_zoo(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write to {safe_text(out, 400)}: {error.strerror}; choose another -o"
        ) from error
    entries = chosen(zoo, task.kind, split)
    purified = entries if task.kind == "purify" else ()
    return Matrix(
        task=task,
        folder=folder,
        zoo=zoo,
        out=out,
        split=split,
        entries=entries,
        prints={method: fingerprint(task, method) for method in task.methods},
        truths={entry.id: truth_digest(folder, entry) for entry in purified},
        command=command,
    )


def chosen(zoo: Zoo, kind: Kind, split: Which) -> tuple[Entry, ...]:
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


def _of(entry: Entry, split: Which) -> bool:
    return split in ("all", entry.split)


def run(matrix: Matrix, *, part: tuple[int, int], jobs: int, progress: Progress) -> Bench:
    """Run what is missing of one part, and write the table of all cells that exist.

    A cell is made again when model, ids, settings or data are no longer those it was made with, or
    when something broke in it.

    Args:
        matrix: the whole benchmark.
        part: index from 0, and number of parts; every such victim is this process's.
        jobs: processes to use.
        progress: told after every victim.

    Raises:
        UsageError: the part is empty, or something cannot be written.
        ClipguardError: a process was killed.
    """
    mine = matrix.entries[part[0] :: part[1]]
    if not mine:
        raise UsageError(f"part {part[0]}/{part[1]} of {len(matrix.entries)} victims is empty")
    if any("test" in (entry.split, side_of(entry.base)) for entry in matrix.entries):
        log_look(matrix.folder, _look(matrix))
    todo = [job for entry in mine if (job := _job(matrix, entry)).prints]
    for done, _ in enumerate(each_victim(run_job, todo, jobs)):
        progress(f"{matrix.task.kind} {', '.join(matrix.task.methods)}", done + 1, len(todo))
    made = report(matrix)
    data = json.dumps(made.model_dump(mode="json"), indent=1, allow_nan=False)
    write_atomic(matrix.out / "bench.json", data + "\n")
    write_atomic(matrix.out / "bench.md", to_markdown(made))
    write_atomic(matrix.out / "bench.html", to_html(made, matrix.out))
    return made


def _look(matrix: Matrix) -> Look:
    """The look at the test split that running `matrix` is."""
    return look_at(
        matrix.zoo,
        matrix.task.kind,
        matrix.prints,
        matrix.entries,
        matrix.command,
        also=json.dumps([FIGURES, matrix.truths]),
    )


def _job(matrix: Matrix, entry: Entry) -> Job:
    """What is missing of one victim."""
    cells = {method: _cell(matrix, entry, method) for method in matrix.task.methods}
    missing = [m for m, cell in cells.items() if cell is None or cell.error is not None]
    return Job(
        task=matrix.task,
        zoo=matrix.folder,
        out=matrix.out,
        entry=entry,
        twin=matrix.twin_of(entry),
        truth=matrix.truths.get(entry.id),
        prints={method: matrix.prints[method] for method in missing},
    )


def _cell(matrix: Matrix, entry: Entry, method: str) -> DetectCell | PurifyCell | None:
    if matrix.task.kind == "detect":
        return read_cell(DetectCell, matrix.out, entry, method, matrix.prints[method])
    cell = read_cell(PurifyCell, matrix.out, entry, method, matrix.prints[method])
    twin = matrix.twin_of(entry)
    if cell is None or twin is None:
        return None
    wanted = (twin.sha256, matrix.truths[entry.id])
    return cell if (cell.twin_sha256, cell.truth_sha256) == wanted else None


def report(matrix: Matrix) -> Bench:
    """The record of all cells that exist, whoever made them.

    Raises:
        UsageError: the log of looks cannot be read.
    """
    rows = tuple(
        bench_row(entry, method, _cell(matrix, entry, method))
        for method in matrix.task.methods
        for entry in matrix.entries
    )
    scores = {m: bench_score([row for row in rows if row.method == m]) for m in matrix.task.methods}
    unbuilt = [e for e in matrix.zoo.entries if e.sha256 is None and _of(e, matrix.split)]
    return Bench(
        kind=matrix.task.kind,
        preset=matrix.zoo.preset,
        zoo=matrix.zoo.digest,
        split=matrix.split,
        methods=matrix.task.methods,
        seed=matrix.task.seed,
        command=matrix.command,
        version=__version__,
        looks=count_looks(matrix.folder),
        cells=len(rows),
        not_run=sum(row.cell is None for row in rows),
        broken=sum(row.cell is not None and row.cell.error is not None for row in rows),
        unbuilt=len(unbuilt),
        scores=scores if matrix.task.kind == "detect" else {},
        table=bench_table(rows),
        rows=rows,
    )
