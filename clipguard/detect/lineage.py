"""The model that a suspect is held against: loaded, run once, and described."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipguard.checkpoint.architectures import computes_alike
from clipguard.checkpoint.hubs import fetched
from clipguard.checkpoint.load import Checkpoint, load_checkpoint
from clipguard.checkpoint.sandbox import AUTO, Guard
from clipguard.detect.weights_change import weights_compared
from clipguard.errors import RefusedError, UsageError
from clipguard.model.open_clip import OpenClipModel, build_model
from clipguard.probe.rates import BATCH, clean_accuracy
from clipguard.record import ReferenceRecord
from clipguard.search.sides import Pair, Side

CLOSE = 0.7
"""Length of the change of the image tower, over the reference's, up to which it is a base. Models
trained apart lie at 1.4; honest fine-tunes of the lab at 0.3 or less."""
ALIKE = 0.3
"""Share of images that a reference must read like the suspect to be of any use."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A model to hold a suspect against, and what the record says of it."""

    model: OpenClipModel
    record: ReferenceRecord


def load_reference(path: Path, arch: str | None, guard: Guard = AUTO) -> Checkpoint:
    """Load a reference, as warily as any checkpoint.

    Args:
        path: file or folder of the reference, or a name that `fetched` knows.
        arch: architecture name or config JSON of the audited one; the reference's own is inferred
            where that does not fit.
        guard: how to open it.

    Raises:
        UsageError: no such path, or no one architecture fits.
        RefusedError: it is no checkpoint, or opening it could do harm.
        BudgetSpentError: there was no time to read it.
    """
    try:
        place = fetched(path)
        return _loaded(place.path, place.arch or arch, guard)
    except (RefusedError, UsageError) as error:
        raise type(error)(f"reference: {error}") from error


def open_reference(checkpoint: Checkpoint, loaded: Checkpoint, device: torch.device) -> Reference:
    """Compare the weights of a reference, and make its model ready to run.

    Args:
        checkpoint: the one under audit.
        loaded: the reference. If its architecture is an assumption, and it could be that of the
            audited one, then it is taken for that.
        device: where to run it.
    """
    choice, wanted = loaded.record.architecture_choice, checkpoint.architecture
    if choice is not None and choice.by == "default":
        same = [one for one in loaded.rivals if computes_alike(one, wanted)]
        for one in same:
            loaded = loaded.chosen(one, choice)
    return Reference(build_model(loaded, device), weights_compared(checkpoint, loaded))


def _loaded(path: Path, arch: str | None, guard: Guard) -> Checkpoint:
    """The reference as `arch` if it fits that, else as what its shapes say."""
    try:
        return load_checkpoint(path, arch=arch, guard=guard)
    except UsageError:
        if arch is None:
            raise
        return load_checkpoint(path, guard=guard)


def described(known: ReferenceRecord, pair: Pair) -> ReferenceRecord:
    """The record of a reference with how it reads the probe images.

    Args:
        known: made by `open_reference`.
        pair: the suspect and this reference.
    """
    mine, theirs = (_read(side, pair) for side in (pair.suspect, pair.reference))
    agreement = (mine == theirs).float().mean().item()
    close = known.tensors > 0 and known.length is not None and known.length <= CLOSE
    role = "unusable" if agreement < ALIKE else "base" if close else "peer"
    accuracy = clean_accuracy(theirs, pair.probe)
    read = {"role": role, "agreement": agreement, "clean_accuracy": accuracy}
    return known.model_copy(update=read)


@torch.no_grad()
def _read(side: Side, pair: Pair) -> Tensor:
    """(N,) classes of the class list that a model reads from the *measure* images."""
    part = pair.probe.measure
    rows = [
        side.logits(part.pixels(slice(i, i + BATCH)).to(side.model.device))[:, : pair.targets]
        for i in range(0, len(part), BATCH)
    ]
    return torch.cat(rows).argmax(dim=1).cpu()
