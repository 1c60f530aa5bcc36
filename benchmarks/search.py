"""What one inverter finds in a lab model with one trigger family, over several starts.

    python benchmarks/search.py VICTIM --inverter targeted --family patch --set '{"area": 0.01}'

VICTIM is a folder of `clipguard lab plant`. A targeted search goes towards the class that
`victim.json` names and, to compare, towards `--others` classes drawn with `--seed`; the other
inverters choose their class. Prints, per start, the class and the share of *select* images in it.
For development: what is chosen here must be reported on other models.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch

from clipguard.audit.profiles import profile
from clipguard.checkpoint.load import load_checkpoint
from clipguard.model.open_clip import build_model
from clipguard.probe.load import bundled_probe
from clipguard.probe.sets import Subject
from clipguard.search.families import FAMILIES
from clipguard.search.inverters import INVERTERS
from clipguard.search.roles import Search


def targets(given: argparse.Namespace, names: tuple[str, ...]) -> list[str | None]:
    if given.inverter != "targeted":
        return [None]
    planted = json.loads((given.victim / "victim.json").read_text())["target"]
    others = random.Random(given.seed).sample(sorted({*names} - {planted}), given.others)
    return [*([planted] if planted else []), *others]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("victim", type=Path)
    parser.add_argument("--inverter", choices=INVERTERS.names(), required=True)
    parser.add_argument("--family", choices=FAMILIES.names(), required=True)
    parser.add_argument("--set", type=json.loads, default={}, help="settings of the family")
    parser.add_argument("--inverter-set", type=json.loads, default={})
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--others", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    model = build_model(load_checkpoint(given.victim / "model.pt"), torch.device("cpu"))
    probe = bundled_probe(model.image_size, profile("standard").scenes, seed=given.seed)
    classes = Subject(model, probe).classes
    defaults = {"targeted": {"steps": 60}, "collapse": {"steps": 60, "restarts": 1}}
    settings = defaults.get(given.inverter, {}) | given.inverter_set
    inverter = INVERTERS.build(given.inverter, settings)
    family = FAMILIES.build(given.family, given.set)
    for wanted in targets(given, probe.class_names):
        target = None if wanted is None else probe.class_names.index(wanted)
        shares = []
        for start in range(given.starts):
            generator = torch.Generator().manual_seed(given.seed + start)
            search = Search(model, probe, classes, target)
            found = inverter.invert(search, family, generator=generator)
            shares.append(f"{probe.class_names[found.target]} {found.share:.2f}")
        print(f"{wanted or 'any class'}: {', '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
