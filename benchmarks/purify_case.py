"""A victim of the lab and its twin, rated under the true trigger; for `benchmarks/purify.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from clipguard.bundled.artwork import compose, load_artwork
from clipguard.bundled.nano import class_names, nano_network
from clipguard.checkpoint.load import load_checkpoint
from clipguard.lab.evaluate import OFFSET
from clipguard.lab.truth import lab_images, look, truth_rates, zero_shot
from clipguard.lab.victim_folder import trigger_of
from clipguard.model.nano import nano_model
from clipguard.model.open_clip import OpenClipModel, build_model
from clipguard.model.pixels import pixels_to_bytes
from clipguard.model.roles import ClipModel
from clipguard.probe.intervals import paired_bootstrap
from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import ProbePart
from clipguard.record import Outcome
from clipguard.search.roles import Trigger

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
    "second scan: excess, gap, apart",
)
SUMMARY = (
    "CA loss: mean (95 % over victims), worst",
    "target CA, pooled (twins)",
    "ASR − twin's: mean, worst",
    "held out, worst",
    "PA of the twin's, ≤ 100 %: mean, worst",
    "seconds",
)
OUTCOMES = tuple(Outcome)
Row = dict[str, float]


def model_at(file: Path) -> OpenClipModel:
    return build_model(load_checkpoint(file), torch.device("cpu"))


def model_in(folder: Path) -> OpenClipModel:
    return model_at(folder / "model.pt")


def twin_of(victim: Path) -> Path:
    beside = victim.with_name(f"{victim.name}-twin")
    return beside if beside.exists() else victim.with_name("twin")


def base_named(name: str) -> OpenClipModel:
    """The bundled model of this name."""
    return nano_model(nano_network(name), name)


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
        _scanned(row) if "second apart" in row else "–",
    )
    return f"| {name} | {' | '.join(shown)} |"


def _scanned(row: Row) -> str:
    measured = (f"{row[f'second {what}']:.2f}" for what in ("excess", "gap", "apart"))
    return f"{OUTCOMES[int(row['second'])].value}: {', '.join(measured)}"


def summary(name: str, rows: list[Row]) -> str:
    ratios = [_capped(row) for row in rows]
    gaps, losses = ([100 * row[key] for row in rows] for key in ("gap seen", "ca loss"))
    shown = (
        f"{_with_interval(losses)}, {max(losses):+.1f}",
        f"{fmean(row['own'] for row in rows):.1%} ({fmean(row['own twin'] for row in rows):.1%})",
        f"{fmean(gaps):+.1f}, {max(gaps):+.1f}",
        f"{max(100 * row['gap held_out'] for row in rows):+.1f}",
        f"{fmean(ratios):.1%}, {min(ratios):.1%}",
        f"{fmean(row['s'] for row in rows):.0f}",
    )
    return f"| {name} | {' | '.join(shown)} |"


def difference(default: list[Row], others: list[Row]) -> str:
    """The default less another way on the same victims, with an interval over victims."""
    shown = []
    for share, word in ((_capped, "PA of the twin's"), (lambda row: row["gap seen"], "ASR")):
        pairs = zip(default, others, strict=True)
        less = [100 * (share(one) - share(other)) for one, other in pairs]
        shown.append(f"{word} {_with_interval(less)}")
    return ", ".join(shown)


def _with_interval(values: list[float]) -> str:
    """The mean of one value a victim, and its 95 % interval by the bootstrap."""
    one = torch.tensor(values)
    draws = torch.Generator().manual_seed(0)
    found = paired_bootstrap(
        one, torch.zeros_like(one), torch.arange(len(one)), generator=draws, draws=10_000
    )
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*found)


def _capped(row: Row) -> float:
    return min(1.0, row["ratio seen"])
