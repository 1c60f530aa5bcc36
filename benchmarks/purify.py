"""Purify a victim of the lab with several settings, and rate each under the true trigger.

    python benchmarks/purify.py VICTIM TWIN --family patch --vary '{"learning_rate": 0.002}'

VICTIM and TWIN are folders of `clipguard lab plant --twin`. The target is taken from `victim.json`
(a scan has to find it), the triggers are inverted as `scan` inverts them; `--true-trigger` tunes
against the planted one instead, which is the ceiling of the method. Prints a Markdown row for the
defaults and for every `--vary`. For development: what is chosen here must be reported elsewhere.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from clipguard.audit.profiles import profile
from clipguard.checkpoint.load import load_checkpoint
from clipguard.lab.evaluate import evaluate_classes
from clipguard.lab.victim_folder import trigger_of
from clipguard.model.open_clip import build_model
from clipguard.probe.load import bundled_probe
from clipguard.probe.sets import Subject
from clipguard.purify.methods import PURIFIERS
from clipguard.purify.repair import RepairSettings, fresh_triggers
from clipguard.search.families import FAMILIES
from clipguard.search.roles import Search, Trigger

STYLES = ("seen", "untuned", "held_out")
COLUMNS = ("ca_loss", "target_ca", "target_ca_twin", "asr", "pa", "pa_ratio")


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def inverted(given: argparse.Namespace, search: Search, repair: RepairSettings) -> list[Trigger]:
    if given.against:
        built = [FAMILIES.build(given.family, chosen) for chosen in given.against]
        repair = replace(repair, against={given.family: built})
    generator = torch.Generator().manual_seed(given.seed)
    return fresh_triggers(search, [given.family], repair, generator, quiet)


def row(name: str, rates: dict[str, dict[str, float]], seconds: float) -> str:
    cells = [
        f"{rates[style].get(key, math.nan):.1%}"
        for style in ("seen", "untuned", "held_out")
        for key in COLUMNS
    ]
    return f"| {name} | {' | '.join(cells)} | {seconds:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("victim", type=Path)
    parser.add_argument("twin", type=Path)
    parser.add_argument("--family", choices=["patch", "additive"], required=True)
    parser.add_argument("--vary", type=json.loads, action="append", default=[], metavar="JSON")
    parser.add_argument("--against", type=json.loads, action="append", default=[], metavar="JSON")
    parser.add_argument("--true-trigger", action="store_true")
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chosen = profile(given.profile)
    model = build_model(load_checkpoint(given.victim / "model.pt"), torch.device("cpu"))
    probe = bundled_probe(model.image_size, chosen.scenes, seed=given.seed)
    subject = Subject(model, probe)
    planted = trigger_of(given.victim)
    if planted is None:
        parser.error(f"{given.victim.name} is clean")
    target = probe.class_names.index(
        json.loads((given.victim / "victim.json").read_text())["target"]
    )
    search = Search(model, probe, subject.classes, target)
    triggers = [planted] if given.true_trigger else inverted(given, search, chosen.repair)
    heads = " | ".join(f"{style} {key}" for style in STYLES for key in COLUMNS)
    print(f"| settings | {heads} | tuning |")
    print("|---" * (2 + len(STYLES) * len(COLUMNS)) + "|")
    for settings in [{}, *given.vary]:
        begun = time.monotonic()
        purifier = PURIFIERS.build("cbpt", settings)
        generator = torch.Generator().manual_seed(given.seed)
        head = purifier.purify(subject, triggers, target, generator=generator, progress=quiet)
        seconds = time.monotonic() - begun
        rates = evaluate_classes(given.victim, given.twin, head.classes, seed=given.seed)
        print(row(json.dumps(settings) if settings else "defaults", rates, seconds), flush=True)


if __name__ == "__main__":
    main()
