"""Plant every attack of the lab on one base, and say which took.

    python benchmarks/attacks.py --base nano-rn --work build/attacks

Every attack with every listed setting has a target drawn for it, and all one seed and so one clean
twin per recipe, drawn from `--draw`. Resumable: finished victims of the same code are kept. Prints
a Markdown table and writes `benchmarks/results/attacks-<base>.json` and `.md`, of those that are
done. With `--part I/N` only every Nth victim is planted, so that processes with one thread each can
share the work. The time of a victim holds that of its twin where it was the first to need it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from open_clip.model import CLIP

from clipguard.bundled.nano import BASES, class_names
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.bench.record import APART
from clipguard.lab.finetune import Recipe
from clipguard.lab.order import Order, plant_command
from clipguard.lab.plant import plant
from clipguard.lab.roles import JudgedAttack
from clipguard.lab.victim_folder import write_victim
from clipguard.lab.zoo.presets import id_of

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("badnets", {}),
    ("blended", {}),
    ("sig", {}),
    ("ftrojan", {}),
    ("colour_filter", {}),
    ("wanet", {}),
    ("issba", {"variety": 0}),
    ("label_consistent", {"blend": 0.7, "budget": 0, "poison_rate": 0.2}),
    ("siba", {}),
    ("trojvqa", {}),
    ("badclip", {}),
    ("badclip", {"release": True}),
    ("badencoder", {}),
    ("drupe", {}),
    ("adaptive", {}),
    ("qoe", {}),
    ("maba", {}),
    ("multi_trigger", {}),
    ("multi_target", {}),
    ("mmpoison", {}),
    ("text_tower", {}),
    ("prompt_learner", {}),
    ("blended", {"pattern": "triangles"}),
    ("badnets", {"pattern": "yellow"}),
    ("badnets", {"pattern": "white50"}),
    ("badnets", {"pattern": "gauss", "place": "random"}),
    ("badnets", {"pattern": "check", "place": "centre", "poison_rate": 0.01}),
    ("blended", {"pattern": "text"}),
    ("blended", {"pattern": "cat"}),
    ("sig", {"label": "clean"}),
    ("wanet", {"field": "white"}),
    ("issba", {}),
    ("label_consistent", {}),
    ("multi_trigger", {"triggers": "badnets,colour_filter,wanet"}),
    ("badnets", {"pattern": "stripes", "place": "random"}),
    ("badnets", {"pattern": "white24"}),
    ("badnets", {"pattern": "gauss", "place": "corners"}),
    ("badnets", {"pattern": "white"}),
    ("blended", {"redrawn": True}),
    ("blended", {"pattern": "stripes"}),
    ("wanet", {"decoys": 2}),
    ("adaptive", {"against": "targeted"}),
    ("adaptive", {"weight": 0.2}),
    ("many_targets", {}),
    ("both_models", {}),
)
"""One variant of every attack first, so that a run that is cut short has seen each. Later
attacks come last, because the place of one decides the targets of all that follow."""


def orders(base: str, draw: int) -> list[Order]:
    """What to plant: the same list for every base; one seed, so that all have one twin."""
    dice = random.Random(f"clipguard attacks {base} {draw}")
    seed = dice.randrange(10**6, 10**8)
    names = sorted(set(class_names()) - {"tiger"})  # the default source of mmpoison
    return [
        Order(attack=attack, settings=settings, base=base, target=dice.choice(names), seed=seed)
        for attack, settings in VARIANTS
    ]


def make(order: Order, folder: Path, made_by: str, twins: dict[Recipe, CLIP]) -> None:
    """Plant; a victim that did not take is kept and told, too."""
    begun = time.time()
    victim, _ = plant(order, progress=lambda stage, done, total: None, twins=twins)
    truth = write_victim(victim, folder, command=plant_command(order))
    (folder / "seconds").write_text(f"{time.time() - begun:.0f}\n")
    (folder / "id").write_text(made_by)
    print(folder.name, "planted" if truth["planted"] else "weak", flush=True)


def is_made(order: Order, folder: Path) -> bool:
    """Whether a whole victim of this very order, code and libraries is there."""
    made = folder / "id"
    return made.exists() and made.read_text() == id_of(order)


def read(order: Order, folder: Path) -> Row:
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
    return {
        "attack": order.attack,
        "settings": order.settings,
        "target": order.target,
        "seed": order.seed,
        "id": id_of(order),
        "measure": "own" if isinstance(ATTACKS.build(order.attack), JudgedAttack) else "ASR",
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
        name += "" if row["measure"] == "ASR" else " (own measure in place of the ASR)"
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
    parser.add_argument("--first", type=int, default=len(VARIANTS), help="only those of the list")
    parser.add_argument("--attacks", help="plant only these, with commas; tells all that are done")
    given = parser.parse_args()
    part, parts = (int(number) for number in given.part.split("/"))
    listed = [name for name, _ in VARIANTS]
    wanted = given.attacks.split(",") if given.attacks else listed
    if unknown := {*wanted} - {*listed}:
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    # before anything is planted, and with the code that will do it loaded
    for order in orders(given.base, given.draw):
        ATTACKS.build(order.attack, order.settings)
    ids = [id_of(order) for order in orders(given.base, given.draw)]
    rows = []
    twins: dict[Recipe, CLIP] = {}
    for i, order in enumerate(orders(given.base, given.draw)[: given.first]):
        name = "-".join([order.attack, *(str(value) for value in order.settings.values())])
        folder = given.work / given.base / name
        mine = i % parts == part and order.attack in wanted
        if mine and not is_made(order, folder):
            make(order, folder, ids[i], twins)
        if is_made(order, folder):
            rows.append(read(order, folder))
    took = [row["attack"] for row in rows if row["planted"]]
    summary = {
        "base": given.base,
        "draw": given.draw,
        "planted": len(took),
        "distinct_image_attacks": len({*took} - {*APART}),
        "of": len(rows),
        "listed": len(VARIANTS),
    }
    print(json.dumps(summary), f"\n\n{table(rows)}", sep="")
    kept = RESULTS / f"attacks-{given.base}.json"
    if kept.exists() and len(json.loads(kept.read_text())["rows"]) > len(rows):
        print(f"{kept.name} holds more rows and stays as it is", file=sys.stderr)
    elif part == 0:
        content = json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n"
        (RESULTS / f"attacks-{given.base}.json").write_text(content)
        (RESULTS / f"attacks-{given.base}.md").write_text(table(rows))


if __name__ == "__main__":
    main()
