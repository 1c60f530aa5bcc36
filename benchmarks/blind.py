"""Blind test: fresh victims, one look, no tuning afterwards.

    python benchmarks/blind.py --draw 1 --work build/blind-1

`--draw` is the only seed: it draws attacks' settings, targets and seeds, none of which were used
in development (targets and seeds of development are excluded). Three badnets, three blended, and
the clean twin of each. Every checkpoint is scanned once through the command line, in a folder
without `victim.json`. Resumable: finished plants and scans are kept. Prints a Markdown table and
writes `benchmarks/results/blind-<draw>.json` and `.md`. With `--part I/N` only every Nth pair is
made and scanned, so that two processes with one thread each can share the work. The first victim
is scanned a second time beside its `victim.json`: the record must be the same apart from times.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clipguard.bundled.nano import class_names
from clipguard.lab.evaluate import evaluate_head

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
DEVELOPMENT_TARGETS = {"banana", "tiger", "rocket", "boot", "violin", "key"}


def clipguard(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipguard", *arguments], capture_output=True, text=True, check=False
    )


def draws(draw: int) -> list[Row]:
    dice = random.Random(f"clipguard blind {draw}")
    targets = dice.sample(sorted(set(class_names()) - DEVELOPMENT_TARGETS), 6)
    rows: list[Row] = []
    for i, target in enumerate(targets):
        settings: Row = {}
        if i < 3:
            settings = {
                "pattern": dice.choice(["check", "noise", "yellow"]),
                "place": dice.choice(["corner", "random"]),
            }
        rows.append(
            {
                "attack": "badnets" if i < 3 else "blended",
                "target": target,
                "seed": dice.randrange(10**6, 10**8),
                "settings": settings,
            }
        )
    return rows


def plant(row: Row, folder: Path) -> None:
    if (folder / "twin" / "victim.json").exists():
        return
    pairs = [part for key, value in row["settings"].items() for part in ("--set", f"{key}={value}")]
    done = clipguard(
        *("lab", "plant", str(row["attack"]), "--target", str(row["target"])),
        *("--seed", str(row["seed"]), "-o", str(folder / "victim")),
        *("--twin", str(folder / "twin"), "-q", *pairs),
    )
    if done.returncode:
        sys.exit(done.stderr)


def scan(model: Path, out: Path) -> None:
    if (out / "audit.json").exists():
        return
    alone = out.parent / f"{out.name}-input"
    alone.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, alone / "model.pt")
    begun = time.time()
    done = clipguard("scan", str(alone / "model.pt"), "-o", str(out), "-q")
    print(
        out.parent.name,
        out.name,
        done.returncode,
        done.stdout.strip(),
        f"{time.time() - begun:.0f} s",
    )
    if done.returncode not in (0, 1, 3):
        sys.exit(done.stderr)
    shutil.rmtree(alone)


def same_beside_truth(folder: Path) -> bool:
    """Whether a scan beside `victim.json` gives the same record, apart from times."""
    out = folder / "beside-report"
    if not (out / "audit.json").exists():
        clipguard("scan", str(folder / "victim" / "model.pt"), "-o", str(out), "-q")
    first, second = (
        json.loads((path / "audit.json").read_text()) for path in (folder / "victim-report", out)
    )
    first.pop("times")
    second.pop("times")
    return bool(first == second)


def judge(row: Row, folder: Path, kind: str) -> Row:
    record = json.loads((folder / f"{kind}-report" / "audit.json").read_text())
    truth = json.loads((folder / kind / "victim.json").read_text())
    detector = record["detectors"][0]
    found = {
        "kind": kind,
        "attack": row["attack"] if kind == "victim" else "none",
        "settings": row["settings"] if kind == "victim" else {},
        "target": row["target"] if kind == "victim" else None,
        "seed": row["seed"],
        "planted": truth["planted"],
        "steps": truth["recipe"]["steps"],
        "asr": truth["rates"]["seen"].get("asr", {}).get("value") if kind == "victim" else None,
        "decision": record["gate"]["decision"],
        "first_target": detector["target"],
        "score": detector["score"],
        "excess": detector["excess"],
        "statistics": {f["family"]: f["statistic"] for f in detector["families"]},
        "purified": None,
    }
    if kind == "victim" and record["purification"]:
        head = folder / "victim-report" / "head.safetensors"
        found["purified"] = evaluate_head(folder / "victim", folder / "twin", head)
        export = record["export"]
        found["onnx"] = export and {
            "relative_error": max(p["relative_error"] for p in export["parity"]),
            "top1": min(p["top1_agreement"] for p in export["parity"]),
            "asr_gap": abs(export["asr_onnx"]["value"] - export["asr_torch"]["value"]),
        }
    return found


def table(rows: list[Row]) -> str:
    lines = [
        "| model | target | ASR | decision | ranked first | score | excess |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        asr = "–" if r["asr"] is None else f"{r['asr']:.1%}"
        name = r["attack"] if r["kind"] == "victim" else "clean twin"
        detail = " ".join(str(value) for value in r["settings"].values())
        lines.append(
            f"| {name} {detail} | {r['target'] or '–'} | {asr} | {r['decision']} | "
            f"{r['first_target']} | {r['score']:.3f} | {r['excess']:+.1f} |"
        )
    lines += [
        "",
        "| victim | style | ASR before | after | CA after | CA loss (upper end) "
        "| CA of the target class (twin) | PA | PA ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if isinstance(r["purified"], dict):
            for style, p in r["purified"].items():
                loss = f"{p['ca_loss']:+.1%} ({p['ca_loss_high']:+.1%})"
                lines.append(
                    f"| {r['attack']} → {r['target']} | {style} | {p['asr_before']:.1%} | "
                    f"{p['asr']:.1%} | {p['ca']:.1%} | {loss} | "
                    f"{p['target_ca']:.0%} ({p['target_ca_twin']:.0%}) | "
                    f"{p['pa']:.1%} | {p.get('pa_ratio', math.nan):.1%} |"
                )
    return "\n".join(lines) + "\n"


def summarise(draw: int, rows: list[Row], blind: bool | None) -> Row:
    found = [r for r in rows if r["kind"] == "victim" and r["decision"] == "fail"]
    passed = sum(r["kind"] == "twin" and r["decision"] == "pass" for r in rows)
    return {
        "draw": draw,
        "right": len(found) + passed,
        "of": len(rows),
        "clean_failed": sum(r["kind"] == "twin" and r["decision"] == "fail" for r in rows),
        "inconclusive": sum(r["decision"] == "inconclusive" for r in rows),
        "found": len(found),
        "target_first": sum(r["first_target"] == r["target"] for r in found),
        "same_record_beside_victim_json": blind,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draw", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--finished", action="store_true", help="only judge the finished pairs")
    args = parser.parse_args()
    first, stride = map(int, args.part.split("/"))
    folders = [
        (row, args.work / f"{i}-{row['attack']}-{row['target']}")
        for i, row in enumerate(draws(args.draw))
    ]
    if args.finished:
        folders = [f for f in folders if (f[1] / "twin-report" / "audit.json").exists()]
    for row, folder in folders[first::stride]:
        plant(row, folder)
        for kind in ("victim", "twin"):
            scan(folder / kind / "model.pt", folder / f"{kind}-report")
    if stride > 1:
        return
    rows = [judge(row, folder, kind) for row, folder in folders for kind in ("victim", "twin")]
    blind = None if args.finished else same_beside_truth(folders[0][1])
    summary = summarise(args.draw, rows, blind)
    RESULTS.mkdir(exist_ok=True)
    text = f"{json.dumps(summary)}\n\n{table(rows)}"
    record = json.dumps({"summary": summary, "rows": rows}, indent=1)
    (RESULTS / f"blind-{args.draw}.json").write_text(record + "\n")
    (RESULTS / f"blind-{args.draw}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
