"""Blind test: fresh victims, one look, no tuning afterwards.

    python benchmarks/blind.py --draw 1 --work build/blind-1

`--draw` is the only seed: it draws attacks' settings, targets and seeds, none of which were used
in development (targets and seeds of development are excluded). Three badnets, three blended, and
the clean twin of each. Every checkpoint is scanned once through the command line, in a folder
without `victim.json`. Resumable: finished plants and scans are kept. Prints a Markdown table and
writes `benchmarks/results/blind-<draw>.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from clipguard.lab.evaluate import evaluate_head
from clipguard.nano import class_names

RESULTS = Path(__file__).parent / "results"
DEVELOPMENT_TARGETS = {"banana", "tiger", "rocket", "boot", "violin", "key"}


def clipguard(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipguard", *arguments], capture_output=True, text=True, check=False
    )


def draws(draw: int) -> list[dict[str, object]]:
    dice = random.Random(f"clipguard blind {draw}")  # noqa: S311
    targets = dice.sample(sorted(set(class_names()) - DEVELOPMENT_TARGETS), 6)
    rows: list[dict[str, object]] = []
    for i, target in enumerate(targets):
        settings: dict[str, object] = {}
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


def plant(row: dict[str, object], folder: Path) -> None:
    if (folder / "twin" / "victim.json").exists():
        return
    settings = row["settings"]
    assert isinstance(settings, dict)
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
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


def judge(row: dict[str, object], folder: Path, kind: str) -> dict[str, object]:
    record = json.loads((folder / f"{kind}-report" / "audit.json").read_text())
    truth = json.loads((folder / kind / "victim.json").read_text())
    detector = record["detectors"][0]
    found: dict[str, object] = {
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


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| model | target | ASR | decision | ranked first | score | excess |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        asr = "–" if r["asr"] is None else f"{r['asr']:.1%}"
        name = r["attack"] if r["kind"] == "victim" else "clean twin"
        detail = " ".join(str(v) for v in dict(r["settings"]).values())  # type: ignore[call-overload]
        lines.append(
            f"| {name} {detail} | {r['target'] or '–'} | {asr} | {r['decision']} | "
            f"{r['first_target']} | {r['score']:.3f} | {r['excess']:+.1f} |"
        )
    lines += [
        "",
        "| victim | style | ASR before | ASR after | CA after | CA loss (upper) | PA after | PA ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if isinstance(r["purified"], dict):
            for style, p in r["purified"].items():
                lines.append(
                    f"| {r['attack']} → {r['target']} | {style} | {p['asr_before']:.1%} | "
                    f"{p['asr']:.1%} | {p['ca']:.1%} | {p['ca_loss']:+.1%} ({p['ca_loss_high']:+.1%}) "
                    f"| {p['pa']:.1%} | {p['pa_ratio']:.1%} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draw", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for i, row in enumerate(draws(args.draw)):
        folder = args.work / f"{i}-{row['attack']}-{row['target']}"
        plant(row, folder)
        for kind in ("victim", "twin"):
            scan(folder / kind / "model.pt", folder / f"{kind}-report")
            rows.append(judge(row, folder, kind))
    found = [r for r in rows if r["kind"] == "victim" and r["decision"] == "fail"]
    right = len(found) + sum(r["kind"] == "twin" and r["decision"] == "pass" for r in rows)
    summary = {
        "draw": args.draw,
        "right": right,
        "of": len(rows),
        "clean_failed": sum(r["kind"] == "twin" and r["decision"] == "fail" for r in rows),
        "inconclusive": sum(r["decision"] == "inconclusive" for r in rows),
        "target_first": sum(r["first_target"] == r["target"] for r in found),
        "found": len(found),
    }
    RESULTS.mkdir(exist_ok=True)
    text = f"{json.dumps(summary)}\n\n{table(rows)}"
    (RESULTS / f"blind-{args.draw}.json").write_text(
        json.dumps({"summary": summary, "rows": rows}, indent=1)
    )
    (RESULTS / f"blind-{args.draw}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
