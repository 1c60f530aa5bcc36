"""Targets outside the class list: what `open_vocabulary` finds on effnet victims and honest models.

    python benchmarks/open_vocabulary.py --draw 0 --work build/open    # calibration
    python benchmarks/open_vocabulary.py --draw 1 --work build/open    # test

Plants victims of several attacks and fine-tunes honest models of the base `effnet` (extra
`[lab]`), and asks the detector about each with the bundled class list without the target's name.
Targets and seeds are drawn from `--draw`; the draws share no target, seed or attack. Resumable:
finished models and findings of the same code are kept. `--part I/N` makes only every Nth model;
`--plant` stops before anything is judged. Prints a Markdown table and writes
`benchmarks/results/open-vocabulary.json` for the test draw.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from clipguard.architectures import named
from clipguard.checkpoint import load_checkpoint
from clipguard.errors import InconclusiveError
from clipguard.lab.finetune import Poison, Suspect, finetune
from clipguard.lab.order import Order, command_of
from clipguard.lab.presets import id_of
from clipguard.lab.recipes import PRETRAINED
from clipguard.lab.truth import Seen, lab_images
from clipguard.methods import ATTACKS, DETECTORS, NEGATIVES
from clipguard.model import OpenClipModel, build_model
from clipguard.nano import BASES, class_names, image_side, nano_network, nano_tokenizer
from clipguard.poisoning import Site, made_trigger
from clipguard.probe import ProbeSource, load_probe
from clipguard.profiles import profile
from clipguard.types import Progress

Row = dict[str, Any]
Variant = tuple[str, dict[str, object]]
BASE, PROFILE, DETECTOR = "effnet", "standard", "open_vocabulary"
RECIPE = PRETRAINED[0]
MIN_ASR = 0.9
ROOT = Path(__file__).parent
RESULT = ROOT / "results" / "open-vocabulary.json"
CODE = ("*.py", "families/*.py", "inverters/*.py", "detectors/inversion.py")
TEST = 1
SIDE_BY_SIDE = 5
DRAWS: dict[int, tuple[Variant, ...]] = {
    0: (
        ("badnets", {"pattern": "stripes"}),
        ("none", {}),
        ("blended", {"pattern": "triangles"}),
        ("one_style", {}),
    ),
    TEST: (
        ("badnets", {}),
        ("none", {}),
        ("blended", {}),
        ("watermark", {}),
        ("sig", {}),
        ("none", {}),
        ("ftrojan", {}),
        ("narrow", {}),
        ("issba", {"variety": 0}),
        ("none", {}),
        ("siba", {}),
        ("frequent", {}),
        ("badclip", {}),
        ("none", {}),
        ("multi_trigger", {"triggers": "sig,ftrojan"}),
        ("rounded", {}),
        ("badnets", {"poison_rate": 0.02}),
        ("none", {}),
        ("badnets", {"place": "random"}),
        ("repeated", {}),
        ("ftrojan", {"poison_rate": 0.02}),
    ),
}
"""Attacks and honest models in turn, so that a killed run has both."""


def orders(draw: int) -> list[Order]:
    """What to make; no two models share a seed, and no two victims a target."""
    dice = random.Random(f"clipguard open vocabulary {draw}")
    names = list(class_names())
    random.Random("clipguard open vocabulary").shuffle(names)
    mine = names[draw::2]
    return [
        Order(
            attack=attack,
            settings=settings,
            base=BASE,
            target=mine[number],
            seed=dice.randrange(10**6, 10**8),
            recipe=RECIPE,
        )
        for number, (attack, settings) in enumerate(DRAWS[draw])
    ]


def quiet(stage: str, done: int, total: int) -> None:
    pass


def make(order: Order, folder: Path) -> None:
    """Train a model unless it is there; as `lab plant` does, without a twin."""
    if (folder / "id").exists() and (folder / "id").read_text() == id_of(order):
        return
    begun, names = time.time(), class_names()
    base = nano_network(order.base).to(memory_format=torch.channels_last)
    asr = None
    if order.honest:
        what = None
        if order.attack in NEGATIVES.names():
            what = Suspect(NEGATIVES.build(order.attack, order.settings), order.target)
        network = finetune(base, RECIPE, what, seed=order.seed, progress=quiet)
    else:
        attack = ATTACKS.build(order.attack, order.settings)
        images = lab_images(held_out=False, seed=order.seed + 3, scenes=1, side=image_side(base))
        tokenizer, target = nano_tokenizer(base), names.index(order.target)
        seen = OpenClipModel(base, named(BASES[BASE]), tokenizer)
        generator = torch.Generator().manual_seed(order.seed)
        trigger = made_trigger(attack, Site(seen, images, names, target), generator=generator)
        poison = Poison(attack, trigger, order.target)
        network = finetune(base, RECIPE, poison, seed=order.seed, progress=quiet)
        model = OpenClipModel(network, named(BASES[BASE]), tokenizer)
        asr = Seen.of(model, images, trigger, target).attacked(attack, trigger).asr.value
    folder.mkdir(parents=True, exist_ok=True)
    truth = {"attack": order.attack, "settings": order.settings, "seed": order.seed}
    truth |= {"poisoned": not order.honest, "target": order.target, "asr": asr}
    torch.save({"state_dict": network.half().state_dict()}, folder / "model.pt")
    text = json.dumps(truth | {"command": command_of(order)}, indent=1) + "\n"
    (folder / "truth.json").write_text(text, encoding="utf-8")
    (folder / "id").write_text(id_of(order))
    told = "honest" if asr is None else f"ASR {asr:.1%}"
    print(folder, order.attack, f"{told}, {time.time() - begun:.0f} s", flush=True)


def tell(folder: Path) -> Progress:
    """Progress as one line a stage, so that a log shows where a long run is."""
    seen: set[str] = set()

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in seen:
            seen.add(stage)
            print(folder, stage, flush=True)

    return progress


def judge(folder: Path) -> Row:
    """What the detector says of one model, and the truth; kept beside the model."""
    detector = DETECTORS.build(DETECTOR, profile(PROFILE).open_vocabulary)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(f"{detector.fingerprint()} {(folder / 'id').read_text()}".encode())
    for pattern in (*CODE, f"detectors/{DETECTOR}.py"):
        for file in sorted((ROOT.parent / "clipguard").glob(pattern)):
            digest.update(file.read_bytes())
    kept = folder / "finding.json"
    if kept.exists():
        row: Row = json.loads(kept.read_text(encoding="utf-8"))
        if row["id"] == digest.hexdigest():
            return row
    model = build_model(load_checkpoint(folder / "model.pt", arch=BASES[BASE]), torch.device("cpu"))
    listed = folder / "classes.txt"
    listed.write_text("\n".join(set(class_names()) - {truth["target"]}) + "\n", encoding="utf-8")
    source = ProbeSource(class_names=listed)
    probe = load_probe(model, source, profile(PROFILE).scenes, seed=0)
    row, begun = {"id": digest.hexdigest(), **truth}, time.time()
    try:
        found = detector.detect(
            model, probe, None, generator=torch.Generator().manual_seed(0), progress=tell(folder)
        ).record
    except InconclusiveError as error:
        row |= {"outcome": "inconclusive", "reason": str(error), "words": [], "asr_found": None}
    else:
        row |= {"outcome": found.outcome.value, "reason": found.reason, "words": found.words}
        row |= {"asr_found": found.candidates[0].asr.value}
    row["seconds"] = round(time.time() - begun, 1)
    row["named"] = row["poisoned"] and truth["target"] in row["words"][:SIDE_BY_SIDE]
    kept.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return row


def summary(rows: list[Row]) -> Row:
    """Counts of what DoD asks for."""
    victims = [row for row in rows if row["poisoned"] and row["asr"] >= MIN_ASR]
    clean = [row for row in rows if not row["poisoned"]]
    return {
        "victims": len(victims),
        "victims_failed": sum(row["outcome"] == "backdoored" for row in victims),
        "target_named": sum(row["named"] for row in victims),
        "weak": sum(row["poisoned"] for row in rows) - len(victims),
        "clean": len(clean),
        "clean_failed": sum(row["outcome"] == "backdoored" for row in clean),
        "clean_inconclusive": sum(row["outcome"] == "inconclusive" for row in clean),
        "seconds_mean": round(sum(row["seconds"] for row in rows) / max(1, len(rows)), 1),
    }


def table(rows: list[Row]) -> str:
    head = ["model", "target", "ASR", "outcome", "words", "s", "told"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        planted = " ".join([row["attack"], *(f"{k}={v}" for k, v in row["settings"].items())])
        target = row["target"] if row["poisoned"] else "–"
        asr = f"{row['asr']:.1%}" if row["poisoned"] else "–"
        cells = [planted, target, asr, row["outcome"], ", ".join(row["words"])]
        lines.append(f"| {' | '.join(map(str, [*cells, row['seconds'], row['reason']]))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draw", type=int, choices=sorted(DRAWS), required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="I/N: only every Nth model, from the Ith")
    parser.add_argument("--plant", action="store_true", help="stop before anything is judged")
    given = parser.parse_args()
    part, parts = (int(number) for number in given.part.split("/"))
    folders = []
    for i, order in enumerate(orders(given.draw)):
        folder = given.work / f"draw-{given.draw}" / f"{i:02}-{order.attack}"
        if i % parts == part:
            make(order, folder)
        if (folder / "id").exists():
            folders.append(folder)
    if given.plant:
        return
    mine = [folder for folder in folders if int(folder.name[:2]) % parts == part]
    rows = sorted(map(judge, mine), key=lambda row: not row["poisoned"])
    counts = summary(rows)
    print(json.dumps(counts, indent=1), f"\n\n{table(rows)}", sep="")
    if given.draw == TEST and parts == 1:
        content = {"draw": given.draw, "summary": counts, "rows": rows}
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
