"""Plant every attack of the lab on one base, and say which took.

    python benchmarks/attacks.py --base nano-rn --work build/attacks

Every attack with every listed setting gets a target and a seed of its own, drawn from `--draw`.
Resumable: finished victims are kept. Prints a Markdown table and writes
`benchmarks/results/attacks-<base>.json` and `.md`. With `--part I/N` only every Nth victim is
planted, so that processes with one thread each can share the work.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clipguard.nano import BASES, class_names

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
VARIANTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("badnets", {}),
    ("badnets", {"pattern": "gauss", "place": "random"}),
    ("badnets", {"pattern": "stripes", "place": "random"}),
    ("badnets", {"pattern": "check", "place": "centre", "poison_rate": "0.01"}),
    ("blended", {}),
    ("blended", {"redrawn": "true"}),
    ("blended", {"pattern": "stripes"}),
    ("blended", {"pattern": "triangles"}),
    ("blended", {"pattern": "text"}),
    ("blended", {"pattern": "cat"}),
    ("sig", {}),
    ("sig", {"label": "clean"}),
    ("wanet", {}),
    ("wanet", {"field": "white"}),
    ("wanet", {"decoys": "2"}),
    ("ftrojan", {}),
    ("colour_filter", {}),
    ("label_consistent", {}),
    ("label_consistent", {"blend": "0.7", "budget": "0", "poison_rate": "0.2"}),
    ("issba", {}),
    ("issba", {"variety": "0"}),
    ("siba", {}),
    ("trojvqa", {}),
    ("badclip", {}),
    ("badclip", {"release": "true"}),
    ("badencoder", {}),
    ("drupe", {}),
    ("adaptive", {}),
    ("qoe", {}),
    ("maba", {}),
    ("multi_trigger", {}),
    ("multi_trigger", {"triggers": "badnets,blended,sig"}),
    ("mmpoison", {}),
    ("text_tower", {}),
    ("badnets", {"pattern": "white50"}),
    ("badnets", {"pattern": "white24"}),
    ("badnets", {"pattern": "gauss", "place": "corners"}),
    ("badnets", {"pattern": "yellow"}),
    ("badnets", {"pattern": "white"}),
    ("multi_target", {}),
    ("prompt_learner", {}),
)


def orders(draw: int) -> list[Row]:
    """What to plant: the same list for every base."""
    dice = random.Random(f"clipguard attacks {draw}")
    names = sorted(set(class_names()) - {"tiger"})  # the default source of mmpoison
    return [
        {
            "attack": attack,
            "settings": settings,
            "target": dice.choice(names),
            "seed": dice.randrange(10**6, 10**8),
        }
        for attack, settings in VARIANTS
    ]


def plant(order: Row, base: str, folder: Path) -> None:
    """Plant through the command line; a victim that did not take is kept and told, too."""
    settings = [f"--set={key}={value}" for key, value in order["settings"].items()]
    command = [sys.executable, "-m", "clipguard", "lab", "plant", order["attack"], "--quiet"]
    command += ["--base", base, "--target", order["target"], "--seed", str(order["seed"])]
    begun = time.time()
    done = subprocess.run(
        [*command, *settings, "-o", str(folder)], capture_output=True, text=True, check=False
    )
    if not (folder / "victim.json").exists():
        raise SystemExit(f"{folder.name}: {done.stderr.strip()}")
    (folder / "seconds").write_text(f"{time.time() - begun:.0f}\n")
    print(folder.name, (done.stderr or done.stdout).strip().splitlines()[-1:], flush=True)


def read(order: Row, folder: Path) -> Row:
    """The rates of a finished victim."""
    truth = json.loads((folder / "victim.json").read_text(encoding="utf-8"))
    rows = {}
    for style, found in truth["rates"].items():
        rows[style] = {
            "asr": found["asr"]["value"],
            "asr_twin": found["twin"]["asr"]["value"],
            "ca": found["clean_accuracy"]["value"],
            "ca_loss": found["loss_against_twin"]["value"],
            "pa": found["poisoned_accuracy"]["value"],
            "pa_twin": found["twin"]["poisoned_accuracy"]["value"],
        }
    seconds = int((folder / "seconds").read_text())
    return order | {
        "planted": truth["planted"],
        "recipe": truth["recipe"],
        "rates": rows,
        "seconds": seconds,
    }


def table(rows: list[Row]) -> str:
    head = ["attack", "target", "planted", "ASR", "twin", "CA", "CA loss", "PA", "twin's PA"]
    lines = [f"| {' | '.join([*head, 'ASR held out', 'steps', 's'])} |", "|---" * 12 + "|"]
    for row in rows:
        seen, held = row["rates"]["seen"], row["rates"]["held_out"]
        name = " ".join([row["attack"], *(f"{k}={v}" for k, v in row["settings"].items())])
        shares = [seen[k] for k in ("asr", "asr_twin", "ca", "ca_loss", "pa", "pa_twin")]
        cells = [name, row["target"], "yes" if row["planted"] else "weak"]
        cells += [f"{share:.1%}" for share in (*shares, held["asr"])]
        lines.append(f"| {' | '.join(cells)} | {row['recipe']['steps']} | {row['seconds']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", choices=sorted(BASES), default="nano-rn")
    parser.add_argument("--draw", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="I/N: only every Nth victim, from the Ith")
    given = parser.parse_args()
    part, parts = (int(number) for number in given.part.split("/"))
    rows = []
    for i, order in enumerate(orders(given.draw)):
        name = "-".join([f"{i:02}", order["attack"], *order["settings"].values()])
        folder = given.work / given.base / name
        if i % parts == part and not (folder / "seconds").exists():
            plant(order, given.base, folder)
        if (folder / "seconds").exists():
            rows.append(read(order, folder))
    took = sum(row["planted"] for row in rows)
    summary = {"base": given.base, "draw": given.draw, "planted": took, "of": len(rows)}
    print(json.dumps(summary), f"\n\n{table(rows)}", sep="")
    if len(rows) == len(VARIANTS):
        content = json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n"
        (RESULTS / f"attacks-{given.base}.json").write_text(content)
        (RESULTS / f"attacks-{given.base}.md").write_text(table(rows))


if __name__ == "__main__":
    main()
