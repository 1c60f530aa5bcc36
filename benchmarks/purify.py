"""Repair victims of the lab in several ways, and rate each under the true trigger.

    python benchmarks/purify.py VICTIM... [--way cbpt] [--way finetune]
        [--vary 'NAME={"realign": {"steps": 50}}'] [--vary 'NAME={"finetune": {"steps": 50}}']

Each VICTIM is a folder of `clipguard lab plant ... -o VICTIM --twin VICTIM-twin`. A way is one of
`scan --purifier` or a repair of the literature. The target is taken from `victim.json` (a scan has
to find it), and so is the family that triggers are inverted in, as `scan` inverts them. Prints a
Markdown row for every victim and way, then the summary of each way over all victims, and what the
default has before each other way (bootstrap over victims). With `--json`
each row is kept, and one that is there already is not made again. `--twins` repairs the clean twins
instead, by mistake. `--reference` holds every victim against the bundled model that it was made
from. `--true-trigger` tunes against the planted trigger, which is the most that a method can do.
`--label-free` hides the classes of all images, `--images` leaves so many of them. For development:
what is chosen here must be reported elsewhere. `--second` holds what was repaired against the
bundled model, as the second scan does. It says what the default policy concludes, and three
figures: the excess, the largest gap (of a trigger of any kind), and how far a class lies apart.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from purify_case import (
    COLUMNS,
    OUTCOMES,
    SUMMARY,
    Case,
    Row,
    base_named,
    cells,
    difference,
    summary,
)
from torch import Tensor

from clipguard.audit.pipeline import NO_BAND
from clipguard.audit.profiles import profile
from clipguard.audit.release import ANOTHER
from clipguard.detect.score import curve_of, scored
from clipguard.lab.comparators.repairs import REPAIRS
from clipguard.lab.comparators.repairs._role import Repair, patient_of
from clipguard.model.roles import PromptTunable
from clipguard.policy.judge import conclude, load_policy
from clipguard.probe.load import bundled_probe
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.purify.features import some
from clipguard.purify.inversions import fresh_triggers
from clipguard.purify.realign import Backdoor, Realigned
from clipguard.purify.repair import WAYS, RepairSettings, tuned
from clipguard.search.roles import Search

FAMILY = {"sig": "frequency", "badnets": "patch", "badclip": "patch", "maba": "patch"}
"""What a search finds of an attack; of the others, something added to the whole image."""
Made = tuple[PromptTunable, Tensor]
Maker = Callable[["Ward"], tuple[Made, float]]


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def shown(given: argparse.Namespace, side: int) -> ProbeSet:
    """The images of a repair."""
    probe = bundled_probe(side, profile(given.profile).scenes, seed=given.seed)
    if given.images:
        draws = torch.Generator().manual_seed(given.seed)
        few = given.images // 5
        parts = [
            some(part, count, draws)
            for part, count in ((probe.optimise, given.images - few), (probe.select, few))
        ]
        probe = replace(probe, optimise=parts[0], select=parts[1], unlabelled=None)
    if given.label_free:
        hidden = [
            replace(part, labels=torch.full_like(part.labels, -1))
            for part in (probe.optimise, probe.select)
        ]
        probe = replace(probe, optimise=hidden[0], select=hidden[1])
    return probe


@dataclass(frozen=True, eq=False)
class Ward:
    """A suspect and what is known of its backdoor; the triggers are inverted once."""

    case: Case
    given: argparse.Namespace
    towers: dict[str, tuple[Realigned, float]] = field(default_factory=dict)

    @cached_property
    def subject(self) -> Subject:
        """What is repaired, and the images that it is shown."""
        suspect = self.case.twin if self.given.twins else self.case.model
        return Subject(suspect, shown(self.given, suspect.image_size))

    @cached_property
    def found(self) -> tuple[Backdoor, float]:
        """The backdoor, and the seconds that its triggers took."""
        settings, begun = profile(self.given.profile).repair, time.monotonic()
        family = FAMILY.get(self.case.truth["attack"], "additive")
        triggers = [self.case.trigger]
        if not self.given.true_trigger:
            subject, draws = self.subject, torch.Generator().manual_seed(self.given.seed)
            search = Search(subject.model, subject.probe, subject.classes, self.case.target)
            triggers = fresh_triggers(
                search, settings.against[family], settings.fresh, generator=draws, progress=quiet
            )
        reference = base_named(self.case.truth["base"]) if self.given.reference else None
        backdoor = Backdoor(triggers, self.case.target, settings.again[family], reference)
        return backdoor, time.monotonic() - begun

    def by(self, way: RepairSettings) -> tuple[Made, float]:
        """The suspect repaired by one of our ways, and what the tower took if it was known."""
        subject, backdoor, known = self.subject, self.found[0], 0.0
        if way.realign is not None:
            if repr(way.realign) not in self.towers:
                begun, draws = time.monotonic(), torch.Generator().manual_seed(self.given.seed)
                tower = way.realign.realign(subject, backdoor, generator=draws, progress=quiet)
                self.towers[repr(way.realign)] = tower, time.monotonic() - begun
            else:
                known = self.towers[repr(way.realign)][1]
            tower = self.towers[repr(way.realign)][0]
            subject = Subject(tower.model, subject.probe)
            backdoor = replace(backdoor, triggers=tower.triggers)
        draws = torch.Generator().manual_seed(self.given.seed)
        alone = replace(way, realign=None)
        made = tuned(subject, backdoor, alone, generator=draws, progress=quiet)
        return (made.model, made.classes), known

    def by_literature(self, repair: Repair) -> tuple[Made, float]:
        """The suspect, repaired by a method of the literature."""
        patient = patient_of(self.subject, self.found[0], self.case.truth["base"])
        draws = torch.Generator().manual_seed(self.given.seed)
        classes = repair.repair(patient, generator=draws, progress=quiet)
        read_with = patient.classes() if classes is None else classes
        return (patient.subject.model, read_with), 0.0

    def second(self, suspect: PromptTunable) -> Row:
        """What a second scan measures, and the place in `OUTCOMES` of what the policy concludes."""
        detector = profile(self.given.profile).differential
        base = base_named(self.case.truth["base"])
        pair = detector.pair(Subject(suspect, self.subject.probe), base)
        *_, found = detector.compare(pair, seed=self.given.seed + ANOTHER, progress=quiet)
        found = scored(found, curve_of(detector, "base"), "")
        (concluded,) = conclude(load_policy("default"), [found.record], NO_BAND)
        gaps = (row.against.gap for row in found.record.candidates if row.against)
        return {
            "second": OUTCOMES.index(concluded.outcome),
            "second excess": math.nan if found.record.excess is None else found.record.excess,
            "second gap": max(gaps, default=0.0),
            "second apart": found.record.apart[0].apart,
        }

    def row(self, make: Maker | None) -> Row:
        """One way, rated; None is nothing."""
        spent, begun = self.found[1], time.monotonic()
        made: Made = self.subject.model, self.subject.classes
        if make is not None:
            made, known = make(self)
            spent += known + time.monotonic() - begun
        row = self.case.against_twin(self.case.rated(*made)) | {"s": spent}
        if self.given.second and make is not None:
            row |= self.second(made[0])
        return row


def ways(given: argparse.Namespace) -> Iterator[tuple[str, Maker | None]]:
    """Name and maker of every way that was asked for."""
    standard = profile(given.profile).repair
    yield "nothing", None
    for name in given.way:
        yield name, _maker(standard, name, {})
    for text in given.vary:
        name, _, changes = text.partition("=")
        yield name, _varied(standard, json.loads(changes))


def _maker(standard: RepairSettings, name: str, told: dict[str, Any]) -> Maker:
    if name in WAYS:
        return partial(Ward.by, way=standard.by(name))
    return partial(Ward.by_literature, repair=REPAIRS.build(name, told))


def _varied(standard: RepairSettings, told: dict[str, Any]) -> Maker:
    """A repair of the literature with other settings, or parts of ours with others."""
    for name in set(told) & set(REPAIRS.names()):
        return _maker(standard, name, told[name])
    made = replace(standard.by(told.get("way", "realign+cbpt")))
    if "realign" in told and made.realign is not None:
        made = replace(made, realign=replace(made.realign, **told["realign"]))
    if "cbpt" in told and made.purifier is not None:
        made = replace(made, purifier=replace(made.purifier, **told["cbpt"]))
    return partial(Ward.by, way=made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("victims", type=Path, nargs="+", metavar="VICTIM")
    parser.add_argument("--way", action="append", default=[])
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--twins", action="store_true")
    parser.add_argument("--true-trigger", action="store_true")
    parser.add_argument("--label-free", action="store_true")
    parser.add_argument("--images", type=int, default=0, help="0 for all")
    parser.add_argument("--second", action="store_true")
    parser.add_argument("--scenes", type=int, default=4, help="fresh scenes per drawing")
    parser.add_argument("--reference", action="store_true")
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    kept = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    wanted = dict(ways(given))
    print(f"| victim | way | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|", sep="\n")
    for victim in given.victims:
        ward = Ward(Case.of(victim, given.scenes), given)
        for name, make in wanted.items():
            rows = kept.setdefault(name, {})
            if victim.name not in rows:
                rows[victim.name] = ward.row(make)
                if given.json:
                    given.json.write_text(json.dumps(kept, indent=1))
            print(f"| {victim.name} {cells(name, rows[victim.name])}", flush=True)
    print("", f"| way | {' | '.join(SUMMARY)} |", "|---" * (1 + len(SUMMARY)) + "|", sep="\n")
    rows = {name: [kept[name][victim.name] for victim in given.victims] for name in wanted}
    for name in wanted:
        print(summary(name, rows[name]))
    if WAYS[0] in wanted:
        print("", f"{WAYS[0]} less each other way, in points, 95 % over victims:", sep="\n")
        for name in sorted(set(wanted) - {"nothing", WAYS[0]}):
            print(f"- {name}: {difference(rows[WAYS[0]], rows[name])}")


if __name__ == "__main__":
    main()
