"""Repair victims of the lab in several ways, and rate each under the true trigger.

    python benchmarks/purify.py VICTIM... [--way cbpt] [--vary 'NAME={"realign": {"steps": 50}}']

Each VICTIM is a folder of `clipguard lab plant ... -o VICTIM --twin VICTIM-twin`. The target is
taken from `victim.json` (a scan has to find it), and so is the family that triggers are inverted
in, as `scan` inverts them. Prints a Markdown row for every victim and way, then the summary of each
way over all victims. `--twins` repairs the clean twins instead, by mistake. `--reference` holds
every victim against the bundled model that it was made from. `--true-trigger` tunes against the
planted trigger, which is the most that a method can do. For development: what is chosen here
must be reported elsewhere. `--second` holds what was repaired against the bundled model, as the
second scan does, and says what the default policy concludes from it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from clipguard.audit.pipeline import NO_BAND
from clipguard.audit.profiles import profile
from clipguard.audit.release import ANOTHER
from clipguard.bundled.artwork import compose, load_artwork
from clipguard.bundled.nano import BASES, class_names, nano_network, nano_tokenizer
from clipguard.checkpoint.architectures import architecture_named
from clipguard.checkpoint.load import load_checkpoint
from clipguard.detect.score import curve_of, scored
from clipguard.lab.evaluate import OFFSET
from clipguard.lab.truth import lab_images, look, truth_rates, zero_shot
from clipguard.lab.victim_folder import trigger_of
from clipguard.model.open_clip import OpenClipModel, build_model
from clipguard.model.pixels import pixels_to_bytes
from clipguard.model.roles import ClipModel
from clipguard.policy.judge import conclude, load_policy
from clipguard.probe.load import bundled_probe
from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import ProbePart, ProbeSet, Subject
from clipguard.purify.methods import PURIFIERS
from clipguard.purify.realign import Backdoor, Realign
from clipguard.purify.repair import RepairSettings, fresh_triggers, tuned
from clipguard.record import Outcome
from clipguard.search.roles import Search, Trigger

FAMILY = {"sig": "frequency", "badnets": "patch", "badclip": "patch", "maba": "patch"}
"""What a search finds of an attack; of the others, something added to the whole image."""
OWN = 180
"""Scenes of each seen style that the target class's clean accuracy is measured on."""
COLUMNS = (
    "CA",
    "CA loss",
    "target CA (twin)",
    "ASR",
    "ASR − twin's, seen / held out",
    "PA",
    "PA of the twin's, seen / held out",
    "seconds",
    "second scan",
)
OUTCOMES = tuple(Outcome)
Row = dict[str, float]


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def model_in(folder: Path) -> OpenClipModel:
    return build_model(load_checkpoint(folder / "model.pt"), torch.device("cpu"))


def twin_of(victim: Path) -> Path:
    beside = victim.with_name(f"{victim.name}-twin")
    return beside if beside.exists() else victim.with_name("twin")


def base_named(name: str) -> OpenClipModel:
    network = nano_network(name)
    return OpenClipModel(network, architecture_named(BASES[name]), nano_tokenizer(network))


@dataclass(frozen=True, eq=False)
class Case:
    """A victim, its twin, and the fresh scenes that both are rated on."""

    victim: Path
    truth: dict[str, Any]
    model: OpenClipModel
    twin: OpenClipModel
    trigger: Trigger
    target: int
    each: int

    @classmethod
    def of(cls, victim: Path, each: int) -> Case:
        """That of a folder."""
        truth = json.loads((victim / "victim.json").read_text())
        trigger = trigger_of(victim)
        if trigger is None:
            raise SystemExit(f"{victim.name} is clean")
        target = class_names().index(truth["target"])
        return cls(
            victim, truth, model_in(victim), model_in(twin_of(victim)), trigger, target, each
        )

    @cached_property
    def scenes(self) -> dict[str, ProbePart]:
        """Fresh scenes of all classes, in the styles that were trained on and in the other."""
        drawn = {
            "seed": self.truth["seed"] + OFFSET,
            "scenes": self.each,
            "side": self.model.image_size,
        }
        return {
            style: lab_images(held_out=style == "held_out", **drawn)
            for style in ("seen", "held_out")
        }

    @cached_property
    def own(self) -> ProbePart:
        """Scenes of the target class alone."""
        artwork = load_artwork(held_out=False)
        concept = artwork.concepts(class_names())[self.target]
        draws = torch.Generator().manual_seed(self.truth["seed"] + OFFSET)
        sprites = artwork.sprites[:, concept].repeat_interleave(OWN, dim=0)
        images = pixels_to_bytes(compose(sprites, side=self.model.image_size, generator=draws))
        labels = torch.full((len(images),), self.target)
        return ProbePart(images, labels, torch.arange(len(artwork.sprites)).repeat_interleave(OWN))

    def rated(self, model: ClipModel, classes: Tensor) -> Row:
        """CA, ASR and PA of a model with these class embeddings."""
        row: Row = {}
        for style, images in self.scenes.items():
            found = truth_rates(look(model, images, self.trigger), classes, self.target)
            if found.clean_accuracy is None or found.poisoned_accuracy is None:
                raise ValueError("lab images are labelled")
            row |= {
                f"ca {style}": found.clean_accuracy.value,
                f"asr {style}": found.asr.value,
                f"pa {style}": found.poisoned_accuracy.value,
            }
        own = classify(embed(model, self.own), classes) == self.target
        return row | {"own": own.float().mean().item()}

    @cached_property
    def natural(self) -> Row:
        """What the clean twin makes of the same images."""
        return self.rated(self.twin, zero_shot(self.twin))

    def against_twin(self, made: Row) -> Row:
        """What is written down of a repair."""
        row = made | {"ca loss": self.natural["ca seen"] - made["ca seen"]}
        row["own twin"] = self.natural["own"]
        for style in self.scenes:
            row[f"gap {style}"] = made[f"asr {style}"] - self.natural[f"asr {style}"]
            row[f"ratio {style}"] = made[f"pa {style}"] / max(self.natural[f"pa {style}"], 1e-3)
        return row


def second(suspect: ClipModel, base: ClipModel, probe: ProbeSet, given: argparse.Namespace) -> int:
    """What the default policy concludes from a second scan, as the place in `OUTCOMES`."""
    detector = profile(given.profile).differential
    pair = detector.pair(Subject(suspect, probe), base)
    *_, found = detector.compare(pair, seed=given.seed + ANOTHER, progress=quiet)
    found = scored(found, curve_of(detector, "base"), "")
    (concluded,) = conclude(load_policy("default"), [found.record], NO_BAND)
    return OUTCOMES.index(concluded.outcome)


def ways(given: argparse.Namespace) -> Iterator[tuple[str, RepairSettings]]:
    standard = profile(given.profile).repair
    for way in given.way:
        yield way, standard.by(way)
    for text in given.vary:
        name, _, changes = text.partition("=")
        told, made = json.loads(changes), standard
        if "realign" in told:
            made = replace(made, realign=replace(standard.realign or Realign(), **told["realign"]))
        if "cbpt" in told:
            settings = {"steps": 100} | told["cbpt"]
            made = replace(made, purifier=PURIFIERS.build("cbpt", settings))
        yield name, replace(made, purifier=made.purifier if told.get("head", True) else None)


def repaired(
    case: Case, given: argparse.Namespace, wanted: list[tuple[str, RepairSettings]]
) -> Iterator[tuple[str, Row]]:
    """Every way on one victim; the triggers are inverted once, and equal towers are tuned once."""
    suspect = case.twin if given.twins else case.model
    settings = profile(given.profile).repair
    probe = bundled_probe(suspect.image_size, profile(given.profile).scenes, seed=given.seed)
    subject = Subject(suspect, probe)
    generator, begun = torch.Generator().manual_seed(given.seed), time.monotonic()
    search = Search(suspect, probe, subject.classes, case.target)
    family = FAMILY.get(case.truth["attack"], "additive")
    triggers = [case.trigger]
    if not given.true_trigger:
        triggers = fresh_triggers(search, [family], settings, generator, quiet)
    inverting = time.monotonic() - begun
    base = base_named(case.truth["base"])
    reference = base if given.reference else None
    backdoor = Backdoor(triggers, case.target, settings.again[family], reference)
    yield "nothing", case.against_twin(case.rated(suspect, subject.classes)) | {"s": inverting}
    towers: dict[str, tuple[OpenClipModel, float]] = {}
    for name, way in wanted:
        begun, spent, start = time.monotonic(), inverting, subject
        if way.realign is not None:
            key = repr(way.realign)
            if key not in towers:
                alone = replace(way, purifier=None)
                draws = torch.Generator().manual_seed(given.seed)
                tower = tuned(subject, backdoor, alone, generator=draws, progress=quiet).model
                towers[key] = tower, time.monotonic() - begun
            start, spent = Subject(towers[key][0], probe), spent + towers[key][1]
            begun = time.monotonic()
        draws = torch.Generator().manual_seed(given.seed)
        made = tuned(start, backdoor, replace(way, realign=None), generator=draws, progress=quiet)
        spent += time.monotonic() - begun
        row = case.against_twin(case.rated(made.model, made.classes)) | {"s": spent}
        if given.second and way.realign is not None and way.purifier is None:
            row["second"] = second(made.model, base, probe, given)
        yield name, row


def cells(name: str, row: Row) -> str:
    shown = (
        f"{row['ca seen']:.1%}",
        f"{100 * row['ca loss']:+.1f}",
        f"{row['own']:.1%} ({row['own twin']:.1%})",
        f"{row['asr seen']:.1%} / {row['asr held_out']:.1%}",
        f"{100 * row['gap seen']:+.1f} / {100 * row['gap held_out']:+.1f}",
        f"{row['pa seen']:.1%}",
        f"{row['ratio seen']:.0%} / {row['ratio held_out']:.0%}",
        f"{row['s']:.0f}",
        OUTCOMES[int(row["second"])].value if "second" in row else "–",
    )
    return f"| {name} | {' | '.join(shown)} |"


def summary(name: str, rows: list[Row]) -> str:
    ratios = [min(1.0, row["ratio seen"]) for row in rows]
    gaps = [100 * row["gap seen"] for row in rows]
    shown = (
        f"{max(100 * row['ca loss'] for row in rows):+.1f}",
        f"{fmean(row['own'] for row in rows):.1%} ({fmean(row['own twin'] for row in rows):.1%})",
        f"{fmean(gaps):+.1f}, {max(gaps):+.1f}",
        f"{max(100 * row['gap held_out'] for row in rows):+.1f}",
        f"{fmean(ratios):.1%}, {min(ratios):.1%}",
        f"{fmean(row['s'] for row in rows):.0f}",
    )
    return f"| {name} | {' | '.join(shown)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("victims", type=Path, nargs="+", metavar="VICTIM")
    parser.add_argument("--way", action="append", default=[])
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--twins", action="store_true")
    parser.add_argument("--true-trigger", action="store_true")
    parser.add_argument("--second", action="store_true")
    parser.add_argument("--scenes", type=int, default=4, help="fresh scenes per drawing")
    parser.add_argument("--reference", action="store_true")
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    wanted, told = list(ways(given)), dict[str, list[Row]]()
    print(f"| victim | way | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|", sep="\n")
    for victim in given.victims:
        case = Case.of(victim, given.scenes)
        for name, row in repaired(case, given, wanted):
            print(f"| {victim.name} {cells(name, row)}", flush=True)
            told.setdefault(name, []).append(row | {"victim": victim.name})
            if given.json:
                given.json.write_text(json.dumps(told, indent=1))
    head = (
        "CA loss, worst",
        "target CA, pooled (twins)",
        "ASR − twin's: mean, worst",
        "held out, worst",
        "PA of the twin's, ≤ 100 %: mean, worst",
        "seconds",
    )
    print("", f"| way | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|", sep="\n")
    for name, rows in told.items():
        print(summary(name, rows))


if __name__ == "__main__":
    main()
