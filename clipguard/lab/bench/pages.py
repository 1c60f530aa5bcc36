"""A benchmark for people: the same tables as Markdown and as one offline HTML file."""

from __future__ import annotations

from pathlib import Path

from clipguard.lab.bench.record import Bench
from clipguard.lab.bench.sheets import sheets
from clipguard.report.formats.html import page
from clipguard.report.formats.markdown import escape, table


def to_markdown(bench: Bench) -> str:
    """The benchmark as GitHub-flavoured Markdown; all text in it is shown and does nothing else."""
    lines = [f"# {escape(title(bench))}", ""]
    for gap in gaps(bench):
        lines += [f"**{escape(gap, 400)}**", ""]
    lines += [escape(fact, 400) + "  " for fact in facts(bench)]
    for sheet in sheets(bench):
        rows = [
            [_named(name, remark), *(escape(cell.text, 400) for cell in cells)]
            for name, remark, cells in sheet.rows
        ]
        lines += ["", f"## {escape(sheet.title, 120)}", "", escape(sheet.note, 600)]
        lines += table([escape(each) for each in sheet.head], rows)
    return "\n".join(lines) + "\n"


def to_html(bench: Bench, folder: Path) -> str:
    """The benchmark as one HTML file with a heat map; colour never stands without its number."""
    return page(
        "bench.html.j2",
        ("style.css", "bench.css"),
        folder,
        title=title(bench),
        gaps=gaps(bench),
        facts=facts(bench),
        sheets=sheets(bench),
        version=bench.version,
    )


def title(bench: Bench) -> str:
    """What the benchmark is of."""
    what = "Detection" if bench.kind == "detect" else "Purification"
    split = "all victims" if bench.split == "all" else f"{bench.split} split"
    return f"{what} benchmark, {split}"


def gaps(bench: Bench) -> list[str]:
    """What keeps this table from being whole; said before anything else."""
    found = []
    if bench.not_run:
        found.append(f"Not whole: {bench.not_run} of {bench.cells} cells are not run.")
    if bench.broken:
        what = "count as inconclusive" if bench.kind == "detect" else "are left out of the means"
        found.append(f"Broken cells: {bench.broken} of {bench.cells}; they {what}.")
    for method, score in bench.scores.items():
        if score.unscored:
            count = f"{score.unscored} of {score.models} headline models"
            found.append(f"{method}: {count} have no score and count as the middle of the others.")
    if bench.unbuilt:
        found.append(f"{bench.unbuilt} entries of this split are not built, and not in the table.")
    return found


def facts(bench: Bench) -> list[str]:
    """Where the figures come from."""
    return [
        f"zoo {bench.preset}, digest {bench.zoo}; clipguard {bench.version}, seed {bench.seed}",
        f"looks at the test split of this zoo so far: {bench.looks}",
        f"made by: {bench.command}",
    ]


def _named(name: str, remark: str) -> str:
    return f"{escape(name)} ({escape(remark, 120)})" if remark else escape(name)
