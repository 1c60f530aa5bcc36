"""What the weights alone show, for the audit record: a hint at most."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from clipguard.checkpoint.architectures import shapes_of
from clipguard.checkpoint.load import Checkpoint, load_checkpoint
from clipguard.detect.weights import (
    TOWER,
    change_concentration,
    change_length,
    changed_tensors,
    channel_energy,
    energy_concentration,
    lipschitz_outliers,
    projection_spectrum,
)
from clipguard.errors import RefusedError, UsageError
from clipguard.record import LabRange, ReferenceRecord, WeightReading, WeightsRecord
from clipguard.record.wording import percent
from clipguard.text_safety import safe_text

STATEMENT: Final = (
    "A hint at most: by themselves these numbers do not tell backdoored from honest models, and "
    "none of them can make a checkpoint pass."
)
# Smallest and largest ever seen on the calibration side of the lab. What
# `python benchmarks/weights.py ZOO` prints of one zoo lies within; docs/benchmarks.md has both.
LAB: Final = (
    LabRange(base="nano-rn", honest=(0.111, 0.289), planted=(0.260, 0.328)),
    LabRange(base="nano-vit", honest=(0.035, 0.177), planted=(0.116, 0.266)),
)


def read_weights(
    checkpoint: Checkpoint, reference: Path | None = None, arch: str | None = None
) -> WeightsRecord:
    """Statistics of a checkpoint's weights, and of its change from a reference.

    Args:
        checkpoint: the checkpoint under audit.
        reference: file or folder it is said to come from; opened like any hostile checkpoint.
        arch: architecture name or config JSON of both, or None to infer the reference's.

    Raises:
        UsageError: the reference has another architecture or other shapes, or see
            `load_checkpoint`; the message names it as the reference.
        RefusedError: the reference is not a checkpoint, or opening it could do harm.
    """
    return WeightsRecord(
        statement=STATEMENT,
        readings=readings(checkpoint.state),
        reference=None if reference is None else _compare(checkpoint, reference, arch),
    )


def readings(state: Mapping[str, Tensor]) -> tuple[WeightReading, ...]:
    """The numbers of one checkpoint by itself; those its layers do not allow are left out.

    Args:
        state: name to tensor, in the network's order.
    """
    energy = channel_energy(state)
    outliers = lipschitz_outliers(energy)
    standing_out = sum(len(found) for found in outliers.values())
    channels = sum(len(energy[key]) for key in outliers)
    made = []
    if channels:
        says = (
            f"{standing_out:,} of {channels:,} channels of the image tower can amplify their input "
            "more than three standard deviations above their layer's mean; honest models have "
            "such channels, too"
        )
        made.append(
            WeightReading(name="channel_outliers", value=standing_out / channels, says=says)
        )
    quotient = energy_concentration(energy)
    if quotient is not None:
        says = (
            f"the strongest 5 % of a layer's channels can amplify {quotient:.2f} times as much as "
            "its channels do in the mean (mean over layers)"
        )
        made.append(WeightReading(name="energy_concentration", value=quotient, says=says))
    for tower, share in projection_spectrum(state).items():
        says = f"{percent(share)} of the square of the {tower} projection lie in one direction"
        made.append(WeightReading(name=f"{tower}_projection", value=share, says=says))
    return tuple(made)


def _compare(checkpoint: Checkpoint, path: Path, arch: str | None) -> ReferenceRecord:
    try:
        reference = load_checkpoint(path, arch=arch)
    except (RefusedError, UsageError) as error:
        raise type(error)(f"reference: {error}") from error
    _require_alike(checkpoint, reference)
    changed = changed_tensors(checkpoint.state, reference.state)
    in_image = sum(key.startswith(TOWER) for key in changed)
    found = change_concentration(checkpoint.state, reference.state)
    return ReferenceRecord(
        name=reference.record.name,
        sha256=reference.record.sha256,
        architecture=reference.record.architecture,
        tensors=len(checkpoint.state),
        changed=len(changed),
        image_changed=in_image,
        length=change_length(checkpoint.state, reference.state),
        concentration=found,
        says=_says(found, len(checkpoint.state), len(changed), in_image),
        lab=() if found is None else LAB,
    )


def _require_alike(checkpoint: Checkpoint, reference: Checkpoint) -> None:
    mine, other = checkpoint.architecture, reference.architecture
    if mine.name != other.name:
        raise UsageError(
            f"reference: expected a {safe_text(mine.name)} like the checkpoint, got "
            f"{safe_text(reference.record.name)}, a {safe_text(other.name)}; "
            "give the checkpoint it was trained from"
        )
    shapes, others = shapes_of(checkpoint.state), shapes_of(reference.state)
    for key in sorted(shapes.keys() | others.keys()):
        if shapes.get(key) != others.get(key):
            raise UsageError(
                f"reference: tensor {safe_text(key)} has shape {others.get(key)}, the "
                f"checkpoint's has {shapes.get(key)}; give the checkpoint it was trained from"
            )


def _says(found: float | None, tensors: int, changed: int, in_image: int) -> str:
    if not changed:
        return f"all {tensors} tensors are those of the reference, so there is no change to read"
    if not in_image:
        return (
            f"the image tower is that of the reference, value by value; {changed} of {tensors} "
            "tensors changed, none of them in it"
        )
    if found is None:
        return (
            f"of the image tower only {in_image} vectors or small matrices changed, which is too "
            "little to read"
        )
    return (
        f"{percent(found)} of the square of the image tower's change lie in one direction (mean "
        "over its matrices); backdoors tend to move a model in fewer directions than honest "
        "training, but the ranges overlap, and longer training or added noise lowers the share"
    )
