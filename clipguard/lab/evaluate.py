"""How well a purified head withstands the true trigger, which no scan has seen."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from clipguard.checkpoint import load_checkpoint
from clipguard.errors import UsageError
from clipguard.heads import load_head
from clipguard.lab.plant import trigger_of
from clipguard.lab.truth import lab_images, paired_loss, truth_rates, zero_shot
from clipguard.measure import classify, embed
from clipguard.model import build_model
from clipguard.nano import class_names
from clipguard.probe import Scenes, bundled_probe
from clipguard.types import ClipModel, ProbePart

OFFSET = 7


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
    checkpoint = load_checkpoint(victim / "model.pt")
    classes, head_names = load_head(head, checkpoint.record.sha256)
    if head_names != names:
        raise UsageError(f"{head.name} was tuned for another class list than the bundled one")
    return evaluate_classes(victim, twin, classes, seed=seed)


def evaluate_classes(
    victim: Path, twin: Path, classes: Tensor, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """As `evaluate_head`, for class embeddings that are in no file.

    Args:
        victim: folder that `lab plant` wrote.
        twin: folder of its clean twin.
        classes: (100, D) unit embeddings of the bundled classes.
        seed: of the scan, which says what drawings it tuned on.

    Returns:
        For fresh scenes of all drawings in the `seen` styles, of those among them that
        purification did not tune on (`untuned`), and of the `held_out` style: `asr_before`,
        `asr`, `ca`, `ca_loss` against the twin on the same images (with `ca_loss_high`, the upper
        end of its 95 % interval), `target_ca`, clean accuracy of the target class alone
        (`target_ca_twin` of the twin), `pa`, and `pa_ratio`, PA as a share of the twin's accuracy
        on the same triggered images.

    Raises:
        UsageError: no victim there, or a clean one.
    """
    trigger = trigger_of(victim)
    if trigger is None:
        raise UsageError(f"{victim.name} is clean; there is no trigger to evaluate")
    truth = json.loads((victim / "victim.json").read_text(encoding="utf-8"))
    names, cpu = class_names(), torch.device("cpu")
    target = names.index(truth["target"])
    model, other = (
        build_model(load_checkpoint(folder / "model.pt"), cpu) for folder in (victim, twin)
    )
    rows = {}
    for name, images in _evaluated(truth["seed"] + OFFSET, model.image_size, seed).items():
        before = truth_rates(model, images, trigger, target)
        after = truth_rates(model, images, trigger, target, classes)
        base = truth_rates(other, images, trigger, target)
        loss = paired_loss(model, other, images, classes)
        if (
            after.clean_accuracy is None
            or not after.poisoned_accuracy
            or not base.poisoned_accuracy
        ):
            raise ValueError("lab images are labelled")
        rows[name] = {
            "asr_before": before.asr.value,
            "asr": after.asr.value,
            "ca": after.clean_accuracy.value,
            "ca_loss": loss.value,
            "ca_loss_high": loss.high,
            "target_ca": _recall(model, images, classes, target),
            "target_ca_twin": _recall(other, images, zero_shot(other), target),
            "pa": after.poisoned_accuracy.value,
            "pa_ratio": after.poisoned_accuracy.value / max(base.poisoned_accuracy.value, 1e-9),
        }
    return rows


def _evaluated(images_seed: int, side: int, scan_seed: int) -> dict[str, ProbePart]:
    seen, held_out = (
        lab_images(held_out=style, seed=images_seed, scenes=4) for style in (False, True)
    )
    kept = bundled_probe(
        side, Scenes(optimise=1, select=1, measure=1), seed=scan_seed
    ).measure.drawings
    return {
        "seen": seen,
        "untuned": _only(seen, torch.isin(seen.drawings, kept)),
        "held_out": held_out,
    }


def _only(part: ProbePart, rows: Tensor) -> ProbePart:
    return ProbePart(part.images[rows], part.labels[rows], part.drawings[rows])


def _recall(model: ClipModel, images: ProbePart, classes: Tensor, target: int) -> float:
    own = _only(images, images.labels == target)
    return (classify(embed(model, own), classes) == target).float().mean().item()
