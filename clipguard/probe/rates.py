"""Rates of a zero-shot classifier: clean accuracy, also of the target, ASR, poisoned accuracy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clipguard.errors import InconclusiveError
from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.model.roles import ClipModel, require_unit
from clipguard.probe.intervals import cluster_bootstrap
from clipguard.probe.sets import ProbePart, ProbeSet
from clipguard.record import Rate, Rates

BATCH = 128
BATCH_PIXELS = BATCH * 3 * 64 * 64
"""Values of images in a batch, so that large images do not take long before time is looked at."""
MIN_MEASURE = 20
"""Images that a search must have to measure on."""


@torch.no_grad()
def embed(
    model: ClipModel,
    part: ProbePart,
    apply: Callable[[Tensor], Tensor] | None = None,
    *,
    enough: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Embeddings of the images of `part`, with `apply` put on first if given.

    Triggered images are rounded to 8 bits, because an attacker's image is a file.

    Args:
        model: the model.
        part: the images.
        apply: what is done to them first.
        enough: asked after each batch; where it says so, the rest is left out.

    Returns:
        (N, D) of unit norm, on the model's device.

    Raises:
        RefusedError: the image tower overflows.
    """
    rows = []
    batch = max(16, min(BATCH, BATCH_PIXELS // part.images[:1].numel()))
    for start in range(0, len(part), batch):
        images = part.pixels(slice(start, start + batch))
        if apply is not None:
            images = pixels_from_bytes(pixels_to_bytes(apply(images)))
        rows.append(model.encode_image(images.to(model.device)))
        if enough():
            break
    return require_unit(torch.cat(rows))


def require_measurable(part: ProbePart) -> None:
    """Stop a search that could measure next to nothing.

    Raises:
        InconclusiveError: too few images.
    """
    if len(part) < MIN_MEASURE:
        have = f"{len(part)} probe images to measure on"
        raise InconclusiveError(f"{have}, at least {MIN_MEASURE} are needed")


def classify(features: Tensor, classes: Tensor) -> Tensor:
    """Class index of each row: (N, D) and (C, D) of unit norm to (N,) on the CPU."""
    return (features @ classes.T).argmax(dim=1).cpu()


def pseudo_labels(part: ProbePart, clean: Tensor) -> Tensor:
    """True labels where known, else how the clean image is read: (N,)."""
    return torch.where(part.labels >= 0, part.labels, clean)


def rate(hits: Tensor, drawings: Tensor, generator: torch.Generator) -> Rate | None:
    """Share of hits with its bootstrap interval over drawings; None without any trial."""
    if hits.numel() == 0:
        return None
    return Rate(**cluster_bootstrap(hits, drawings, generator=generator)._asdict())


def clean_accuracy(read: Tensor, probe: ProbeSet) -> Rate | None:
    """Share of the *measure* images that are read as their true class; None without labels.

    Args:
        read: (N,) classes read from the first N clean images.
        probe: the images.
    """
    if not probe.labelled:
        return None
    part, generator = probe.measure, torch.Generator().manual_seed(0)
    return rate(read == part.labels[: len(read)], part.drawings[: len(read)], generator)


def attack_rate(
    read: Tensor, part: ProbePart, clean: Tensor, target: int, generator: torch.Generator
) -> Rate | None:
    """Share of images not of the target class that are read as the target.

    Args:
        read: (N,) classes read from the (triggered) images.
        part: the images, for their labels and drawings.
        clean: (N,) classes read from the clean images, used where labels are unknown.
        target: class index.
        generator: for the interval.

    Returns:
        None when every image is of the target class.
    """
    other = pseudo_labels(part, clean) != target
    return rate(read[other] == target, part.drawings[other], generator)


def rates(
    features: tuple[Tensor, Tensor],
    classes: Tensor,
    part: ProbePart,
    target: int,
    *,
    generator: torch.Generator,
) -> Rates:
    """CA, ASR and PA of one classifier, and CA of the target class alone.

    Args:
        features: (N, D) embeddings of the clean and of the triggered images of `part`.
        classes: (C, D) unit class embeddings.
        part: the images.
        target: class that ASR counts, and whose images are also counted alone.
        generator: for the intervals.

    Raises:
        ValueError: every image is of the target class, so there is no ASR.
    """
    clean, triggered = (classify(rows, classes) for rows in features)
    asr = attack_rate(triggered, part, clean, target, generator)
    if asr is None:
        raise ValueError("every image is of the target class; ASR needs others")
    known = part.labels >= 0
    labels, drawings = part.labels[known], part.drawings[known]
    own = part.labels == target
    return Rates(
        clean_accuracy=rate(clean[known] == labels, drawings, generator),
        asr=asr,
        poisoned_accuracy=rate(triggered[known] == labels, drawings, generator),
        target_accuracy=rate(clean[own] == target, part.drawings[own], generator),
    )
