"""Which of several architectures with the same shapes a checkpoint is, by how it reads images.

Shapes cannot tell GELU from QuickGELU. A tower that runs with the wrong one still reads most
images rightly, so a scan would end with a verdict about a model that nobody runs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clipguard.audit.options import Options
from clipguard.audit.watch import Watch
from clipguard.checkpoint.architectures import Architecture, computes_alike
from clipguard.checkpoint.load import Checkpoint
from clipguard.errors import BudgetSpentError
from clipguard.model.open_clip import OpenClipModel, build_model, device_of
from clipguard.probe.load import Scenes, bundled_probe, load_probe
from clipguard.probe.rates import classify, embed
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.record import ArchitectureRecord, ToldBy

SCENES = Scenes(optimise=1, select=1, measure=1)
"""Of the bundled drawings, where no labelled images are given; *measure* is never looked at."""


def settled(
    checkpoint: Checkpoint, reference: Checkpoint | None, options: Options, seed: int, watch: Watch
) -> Checkpoint:
    """The checkpoint as the architecture that it most likely is.

    What the user, a config or the reference says counts, and is only compared with the images.
    Where nothing says it, the architecture is taken that reads clearly more of them rightly, else
    open_clip's default.

    Args:
        checkpoint: as it was loaded; without rivals it is returned as it is.
        reference: the model that it is held against.
        options: where the images come from.
        seed: draws scenes.
        watch: time and budget; what it cuts short is not compared.
    """
    choice = checkpoint.record.architecture_choice
    if not checkpoint.rivals or choice is None:
        return checkpoint
    first, by = checkpoint.architecture, choice.by
    if by == "default" and (same := _of_reference(checkpoint, reference)):
        first, by = same, "reference"
    possible = (checkpoint.architecture, *checkpoint.rivals)
    tried = [first, *(one for one in possible if one != first)]
    try:
        hits = [_right(checkpoint, one, options, seed, watch) for one in tried]
    except BudgetSpentError:
        rivals = tuple(one.name for one in tried[1:])
        return _noted(checkpoint.chosen(first, ArchitectureRecord(by=by, rivals=rivals)), tried[1])
    order = sorted(range(len(tried)), key=lambda i: -int(hits[i].sum()))
    best = 0
    if by == "default" and _compared(hits[order[0]], hits[order[1]], "images").is_clear:
        best, by = order[0], "images"
    rival = next(i for i in order if i != best)
    told = _compared(hits[best], hits[rival], by)
    names = tuple(one.name for i, one in enumerate(tried) if i != best)
    told = told.model_copy(update={"rivals": names})
    return _noted(checkpoint.chosen(tried[best], told), tried[rival])


def _of_reference(checkpoint: Checkpoint, reference: Checkpoint | None) -> Architecture | None:
    """The one of the possible architectures that the reference has, if it is told there."""
    choice = reference.record.architecture_choice if reference else None
    if reference is None or choice is None or choice.by == "default":
        return None
    possible = (checkpoint.architecture, *checkpoint.rivals)
    return next((one for one in possible if computes_alike(one, reference.architecture)), None)


def _compared(one: Tensor, other: Tensor, by: ToldBy) -> ArchitectureRecord:
    """What (N,) hits of the chosen one and of a rival say."""
    return ArchitectureRecord(
        by=by,
        images=len(one),
        only_chosen=int((one & ~other).sum()),
        only_rival=int((other & ~one).sum()),
    )


def _noted(checkpoint: Checkpoint, rival: Architecture) -> Checkpoint:
    """With a note where the architecture is an assumption, or reads worse than a rival."""
    record = checkpoint.record
    told = record.architecture_choice
    if told is None:
        return checkpoint
    note = ""
    if told.by == "default":
        names = " and ".join((record.architecture, *told.rivals))
        note = (
            f"the shapes fit {names}, and the images do not tell which; open_clip's default, "
            f"{record.architecture}, is assumed: say with --arch what it was trained as"
        )
    elif told.reads_worse:
        note = (
            f"{rival.name} has the same shapes and reads more images rightly: {told.only_rival} "
            f"that {record.architecture} does not, against {told.only_chosen}; check --arch"
        )
    notes = (*record.notes, f"CG111 {note}") if note else record.notes
    return replace(checkpoint, record=record.model_copy(update={"notes": notes}))


@torch.no_grad()
def _right(
    checkpoint: Checkpoint, architecture: Architecture, options: Options, seed: int, watch: Watch
) -> Tensor:
    """(N,) whether each labelled image is read as its true class."""
    watch.progress("architecture", 0, 1)
    model = build_model(replace(checkpoint, architecture=architecture), device_of(options.device))
    probe = _labelled(model, options, seed)
    classes = Subject(model, probe).classes

    def in_time() -> bool:
        watch.progress("architecture", 0, 1)
        return False

    parts = (probe.optimise, probe.select)
    hits = [classify(embed(model, p, enough=in_time), classes) == p.labels for p in parts]
    return torch.cat(hits)


def _labelled(model: OpenClipModel, options: Options, seed: int) -> ProbeSet:
    """The images that were given if their classes are known, else the bundled drawings."""
    if options.probe.images is not None:
        given = load_probe(model, replace(options.probe, vocabulary=None), SCENES, seed=seed)
        if given.labelled:
            return given
    return bundled_probe(model.image_size, SCENES, seed=seed)
