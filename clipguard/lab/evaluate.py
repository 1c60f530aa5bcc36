"""How well a repair withstands the true trigger, which no scan has seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import class_names
from clipguard.checkpoint.load import load_checkpoint
from clipguard.errors import UsageError
from clipguard.lab.truth import Loss, Views, lab_images, look, paired_loss, truth_rates, zero_shot
from clipguard.lab.victim_folder import trigger_of
from clipguard.model.open_clip import OpenClipModel, build_model
from clipguard.model.roles import ClipModel
from clipguard.probe.intervals import paired_bootstrap
from clipguard.probe.load import Scenes, bundled_probe
from clipguard.probe.rates import classify
from clipguard.probe.sets import ProbePart
from clipguard.purify.files import TOWER_FILE, load_head
from clipguard.record import Rate
from clipguard.search.roles import Trigger

OFFSET = 7
SCENES = 4
"""Of each drawing."""


def evaluate_head(
    victim: Path, twin: Path, head: Path, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """CA, ASR and PA of a purified victim under its true trigger.

    Args:
        victim: folder that `lab plant` wrote.
        twin: folder of its clean twin.
        head: head.safetensors of the victim's scan.
        seed: of that scan.

    Returns:
        What `evaluate_classes` returns.

    Raises:
        UsageError: no victim there, a clean one, or a head of another checkpoint.
    """
    names = class_names()
    tower = head.with_name(TOWER_FILE)
    checkpoint = load_checkpoint(tower if tower.exists() else victim / "model.pt")
    loaded = load_head(head, checkpoint.record.sha256)
    if loaded.names != names:
        raise UsageError(f"{head.name} was tuned for another class list than the bundled one")
    model = build_model(checkpoint, torch.device("cpu"))
    return evaluate_classes(victim, twin, loaded.classes, repaired=model, seed=seed)


def evaluate_classes(
    victim: Path,
    twin: Path,
    classes: Tensor,
    *,
    repaired: ClipModel | None = None,
    seed: int = 0,
    tuned: Tensor | None = None,
) -> dict[str, dict[str, float]]:
    """As `evaluate_head`, for a repair that is in no file.

    Args:
        victim: folder that `lab plant` wrote.
        twin: folder of its clean twin.
        classes: (100, D) unit embeddings of the bundled classes.
        repaired: the victim with a repaired image tower; None where it is as it was.
        seed: of the scan, which says what drawings it tuned on.
        tuned: (N,) drawings that the repair was given; asks for the row `unseen`.

    Returns:
        For fresh scenes of all drawings in the `seen` styles, of those among them that
        purification did not tune on (`untuned`), of the `held_out` style, and, where it is asked
        for, of drawings of other classes, read by their names (`unseen`): `asr_before`,
        `asr` (`asr_twin` of the twin under the same trigger, `asr_gap` what is above it), `ca`,
        `ca_loss` against the twin on the same images, `target_ca`, clean accuracy of the target
        class alone (`target_ca_twin` of the twin; neither in `unseen`), `pa`, and `pa_ratio`, PA
        as a share of the twin's accuracy on the same triggered images (left out where that is 0).
        `asr_gap`, `ca_loss` and `pa` come with `_low` and `_high`, the ends of their 95 % interval
        over drawings.

    Raises:
        UsageError: no victim there, or a clean one.
    """
    trial = Trial.of(victim, twin, repaired)
    heads = Heads(zero_shot(trial.model), classes.cpu(), zero_shot(trial.twin))
    side, rows = trial.model.image_size, {}
    for held_out in (False, True):
        images = lab_images(held_out=held_out, seed=trial.seed, scenes=SCENES, side=side)
        views = trial.views(images)
        kept = {"held_out": images.labels >= 0} if held_out else _seen(images, side, seed)
        for name, chosen in kept.items():
            chosen_views = Three(*(_only(view, chosen) for view in views))
            rows[name] = _row(chosen_views, heads, class_names().index(trial.target))
    return rows if tuned is None else rows | {"unseen": _unseen(trial, tuned)}


def _unseen(trial: Trial, tuned: Tensor) -> dict[str, float]:
    """A row for a class list that the repair did not see, where no prompts are tuned.

    The list is the name of every bundled drawing that is none of the 100 classes, and the target.
    It is read by the text tower of what was repaired. One fresh scene of each drawing in the seen
    styles is shown, but for those in `tuned`. Of the target that is too few for an accuracy.
    """
    known = {*class_names()}
    others = [names[0] for names in load_artwork().names if names[0] not in known]
    names = (*others, trial.target)
    images = lab_images(
        held_out=False, seed=trial.seed, scenes=1, side=trial.model.image_size, names=names
    )
    images = images.rows(~torch.isin(images.drawings, tuned))
    readers = (trial.model, trial.repaired, trial.twin)
    heads = Heads(*(zero_shot(each, names=names).cpu() for each in readers))
    row = _row(trial.views(images), heads, len(others))
    return {name: value for name, value in row.items() if not name.startswith("target")}


@dataclass(frozen=True, eq=False)
class Trial:
    """What is compared, and under which trigger.

    Attributes:
        trigger: that was planted.
        target: name of its target class.
        seed: of the scenes.
        model: the victim.
        repaired: what was made of it.
        twin: its clean twin.
    """

    trigger: Trigger
    target: str
    seed: int
    model: OpenClipModel
    repaired: ClipModel
    twin: OpenClipModel

    @classmethod
    def of(cls, victim: Path, twin: Path, repaired: ClipModel | None) -> Trial:
        """That of the folders of a victim and of its twin.

        Raises:
            UsageError: no victim there, or a clean one.
        """
        trigger = trigger_of(victim)
        if trigger is None:
            raise UsageError(f"{victim.name} is clean; there is no trigger to evaluate")
        truth = json.loads((victim / "victim.json").read_text(encoding="utf-8"))
        model, other = (
            build_model(load_checkpoint(folder / "model.pt"), torch.device("cpu"))
            for folder in (victim, twin)
        )
        seed = truth["seed"] + OFFSET
        return cls(trigger, truth["target"], seed, model, repaired or model, other)

    def views(self, images: ProbePart) -> Three:
        """What each makes of the same images."""
        readers = (self.model, self.repaired, self.twin)
        views = (look(each, images, self.trigger) for each in readers)
        return Three(*(Views(images, view.clean.cpu(), view.triggered.cpu()) for view in views))


class Three(NamedTuple):
    """The same images seen by the victim, by what was made of it, and by the twin."""

    before: Views
    after: Views
    twin: Views


class Heads(NamedTuple):
    """Class embeddings (C, D) of these three."""

    before: Tensor
    after: Tensor
    twin: Tensor


def _seen(images: ProbePart, side: int, scan_seed: int) -> dict[str, Tensor]:
    """Rows of the seen styles, and of the drawings that no tuning of that scan saw."""
    one = Scenes(optimise=1, select=1, measure=1)
    untuned = bundled_probe(side, one, seed=scan_seed).measure.drawings
    return {"seen": images.labels >= 0, "untuned": torch.isin(images.drawings, untuned)}


def _only(views: Views, rows: Tensor) -> Views:
    return Views(views.images.rows(rows), views.clean[rows], views.triggered[rows])


def _row(views: Three, heads: Heads, target: int) -> dict[str, float]:
    before, after, base = (
        truth_rates(view, head, target) for view, head in zip(views, heads, strict=True)
    )
    mine, twins = views.after, views.twin
    loss = paired_loss(mine, heads.after, twins, heads.twin)
    gap = _asr_gap(mine, twins, heads, target)
    pa = _known(after.poisoned_accuracy)
    row = {
        "asr_before": before.asr.value,
        "asr": after.asr.value,
        "asr_twin": base.asr.value,
        "asr_gap": gap.value,
        "asr_gap_low": gap.low,
        "asr_gap_high": gap.high,
        "ca": _known(after.clean_accuracy).value,
        "ca_loss": loss.value,
        "ca_loss_low": loss.low,
        "ca_loss_high": loss.high,
        "target_ca": _known(after.target_accuracy).value,
        "target_ca_twin": _known(base.target_accuracy).value,
        "pa": pa.value,
        "pa_low": pa.low,
        "pa_high": pa.high,
    }
    natural = _known(base.poisoned_accuracy).value
    return row if natural == 0 else row | {"pa_ratio": pa.value / natural}


def _asr_gap(mine: Views, twins: Views, heads: Heads, target: int) -> Loss:
    """ASR minus the twin's on the same triggered images, which is natural confusion."""
    other = mine.images.labels != target
    read, natural = (
        classify(view.triggered[other], head) == target
        for view, head in ((mine, heads.after), (twins, heads.twin))
    )
    generator = torch.Generator().manual_seed(0)
    drawings = mine.images.drawings[other]
    return Loss(*paired_bootstrap(read, natural, drawings, generator=generator))


def _known(rate: Rate | None) -> Rate:
    if rate is None:
        raise ValueError("lab images are labelled, with some of every class")
    return rate
