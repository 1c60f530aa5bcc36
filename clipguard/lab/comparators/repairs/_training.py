"""The training that the fine-tuning repairs share: labelled images with captions of the lab."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from clipguard.bundled.nano import TEMPLATES, encode_captions, nano_tokenizer, normalise
from clipguard.lab.comparators.repairs._role import Patient
from clipguard.lab.finetune import contrastive_loss
from clipguard.lab.roles import Pairs
from clipguard.search.roles import Progress


def stages(network: CLIP) -> dict[str, nn.Module]:
    """The stages of a ResNet, by name; none of another image tower."""
    parts = network.visual.named_children()
    return {name: part for name, part in parts if name.startswith("layer")}


@contextmanager
def watched(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Outputs of the layers, in the order in which they are passed, as other hooks leave them."""
    seen: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda module, given, made: seen.append(made))
        for layer in layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def drawn(patient: Patient, count: int, generator: torch.Generator) -> Pairs:
    """`count` labelled images, each with a caption that a template makes of its class."""
    part, names = patient.labelled, patient.subject.probe.class_names
    index = torch.randint(len(part), (count,), generator=generator)
    labels = part.labels[index]
    picks = torch.randint(len(TEMPLATES), (count,), generator=generator).tolist()
    texts = [
        TEMPLATES[pick].format(names[label])
        for pick, label in zip(picks, labels.tolist(), strict=True)
    ]
    return Pairs(part.pixels(index), texts, labels)


def image_embeddings(network: CLIP, images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] to (B, D) of unit norm, differentiable in the weights."""
    embedded: Tensor = network.encode_image(normalise(images), normalize=True)
    return embedded


def text_embeddings(network: CLIP, texts: list[str]) -> Tensor:
    """(B, D) of unit norm, differentiable in the weights."""
    return encode_captions(network, nano_tokenizer(network)(texts))


def clip_loss(image: Tensor, text: Tensor, network: CLIP, concepts: Tensor) -> Tensor:
    """CLIP's loss of unit rows (B, D), in which pairs of one concept are no negatives."""
    return contrastive_loss(image, text, network.logit_scale.detach().exp(), concepts)


def train(
    weights: nn.Module,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    progress: Progress,
) -> None:
    """AdamW with a warm-up of a tenth, then a cosine; statistics of batches stay frozen.

    Args:
        weights: what is trained; frozen again afterwards.
        loss_of: the loss of a step, given its number.
        steps: optimiser steps.
        learning_rate: the peak.
        weight_decay: of matrices only, not of biases and norms.
        progress: told about every step.
    """
    weights.requires_grad_(True)
    flat = [value for value in weights.parameters() if value.ndim < 2]
    deep = [value for value in weights.parameters() if value.ndim >= 2]
    groups = [{"params": deep, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    for step in range(steps):
        progress("repair", step, steps)
        warm = min(1.0, (step + 1) / max(1, steps // 10))
        pace = warm * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * pace
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss_of(step))
        nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        optimizer.step()
    weights.requires_grad_(False)
    optimizer.zero_grad(set_to_none=True)
