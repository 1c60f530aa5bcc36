"""How well a purified head withstands the true trigger, which no scan has seen."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from clipguard.checkpoint import load_checkpoint
from clipguard.errors import UsageError
from clipguard.heads import load_head
from clipguard.lab.plant import trigger_of
from clipguard.lab.truth import lab_images, paired_loss, truth_rates
from clipguard.model import build_model
from clipguard.nano import class_names

OFFSET = 7


def evaluate_head(victim: Path, twin: Path, head: Path) -> dict[str, dict[str, float]]:
    """CA, ASR and PA of a purified victim under its true trigger, seen and held-out style.

    Args:
        victim: folder that `lab plant` wrote.
        twin: folder of its clean twin.
        head: head.safetensors of the victim's scan.

    Returns:
        Per style: `asr_before`, `asr`, `ca`, `ca_loss` against the twin on the same images (with
        `ca_loss_high`, the upper end of its 95 % interval), `pa`, and `pa_ratio`, PA as a share
        of the twin's accuracy on the same triggered images.

    Raises:
        UsageError: no victim there, a clean one, or a head of another checkpoint.
    """
    trigger = trigger_of(victim)
    if trigger is None:
        raise UsageError(f"{victim.name} is clean; there is no trigger to evaluate")
    truth = json.loads((victim / "victim.json").read_text(encoding="utf-8"))
    names, cpu = class_names(), torch.device("cpu")
    target = names.index(truth["target"])
    poisoned = load_checkpoint(victim / "model.pt")
    clean = load_checkpoint(twin / "model.pt")
    classes, head_names = load_head(head, poisoned.record.sha256)
    if head_names != names:
        raise UsageError(f"{head.name} was tuned for another class list than the bundled one")
    model, other = build_model(poisoned, cpu), build_model(clean, cpu)
    rows = {}
    for style, held_out in (("seen", False), ("held_out", True)):
        images = lab_images(held_out=held_out, seed=truth["seed"] + OFFSET, scenes=4)
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
        rows[style] = {
            "asr_before": before.asr.value,
            "asr": after.asr.value,
            "ca": after.clean_accuracy.value,
            "ca_loss": loss.value,
            "ca_loss_high": loss.high,
            "pa": after.poisoned_accuracy.value,
            "pa_ratio": after.poisoned_accuracy.value / max(base.poisoned_accuracy.value, 1e-9),
        }
    return rows
