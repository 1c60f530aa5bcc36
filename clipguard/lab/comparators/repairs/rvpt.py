"""RVPT: visual prompts that keep what the classes need and push all else away."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from clipguard.lab.comparators.repairs._role import Patient, Repair
from clipguard.lab.comparators.repairs._training import image_embeddings, stages, train, watched
from clipguard.search.roles import Progress

DEVIATION = 0.02
"""Of the first prompts, about that of the tower's own tokens."""


@dataclass(frozen=True, kw_only=True)
class Rvpt:
    """Tune tokens that are added in the deeper layers of a frozen image tower.

    Two losses on clean labelled images: cross-entropy of the zero-shot classes, and `repulsion`:
    the cosine, layer by layer, between the feature of the image and that of the tower without
    prompts. What the classes do not need goes, and so does what a trigger needs.

    The prompts are kept as hooks on the network, whose weights stay as they are. A copy of the
    network keeps them, its weights alone do not.

    Attributes:
        steps: optimiser steps.
        learning_rate: the peak.
        batch: images in a step.
        tokens: added to each of the deeper layers of a transformer.
        shallow: share of the layers, from the input on, that get none.
        repulsion: weight of the repulsion.

    Source:
        Zhang et al., Repulsive Visual Prompt Tuning, NeurIPS 2025, arXiv 2412.20392; the public
        repository holds a README only. Theirs: 12 layers of which the first 3 have no prompts,
        50 tokens, weight 2, 16 images a class, batches of 32, SGD at 0.002 for 50 epochs. Adapted:
        fewer tokens for 64 patches, AdamW, rates for a small model, clipped gradients. A ResNet
        has no tokens: a map is added to what each of its deeper stages gives, and a feature is the
        mean over places.
    """

    ID: ClassVar[str] = "rvpt/1"

    steps: int = 400
    learning_rate: float = 3e-2
    batch: int = 32
    tokens: int = 8
    shallow: float = 0.25
    repulsion: float = 2.0

    def repair(
        self, patient: Patient, *, generator: torch.Generator, progress: Progress
    ) -> Tensor | None:
        """See `Repair.repair`."""
        network, part, classes = patient.network, patient.labelled, patient.classes()
        frozen, scale = copy.deepcopy(network), patient.subject.model.logit_scale
        prompts = self._prompted(network, part.pixels(slice(0, 1)), generator)
        deeper = slice(len(_layers(network)) - len(prompts), None)

        def loss(step: int) -> Tensor:
            index = torch.randint(len(part), (self.batch,), generator=generator)
            images = part.pixels(index)
            with watched(_layers(network)[deeper]) as made:
                rows = image_embeddings(network, images)
            with torch.no_grad(), watched(_layers(frozen)[deeper]) as was:
                image_embeddings(frozen, images)
            like = [
                functional.cosine_similarity(_feature(one), _feature(other)).mean()
                for one, other in zip(made, was, strict=True)
            ]
            right = functional.cross_entropy(scale * rows @ classes.T, part.labels[index])
            return right + self.repulsion * torch.stack(like).mean()

        rate = self.learning_rate
        train(prompts, loss, steps=self.steps, learning_rate=rate, progress=progress)
        return None

    def _prompted(
        self, network: CLIP, image: Tensor, generator: torch.Generator
    ) -> nn.ParameterList:
        """Hooks with new prompts on the deeper layers, one for each; `image` tells their shapes."""
        layers = _layers(network)
        with torch.no_grad(), watched(layers) as shapes:
            image_embeddings(network, image)
        prompts = nn.ParameterList()
        first = round(self.shallow * len(layers))
        for layer, output in zip(layers[first:], shapes[first:], strict=True):
            few = output.dim() == 3
            shape = (self.tokens, output.shape[-1]) if few else output.shape[1:]
            prompts.append(nn.Parameter(DEVIATION * torch.randn(shape, generator=generator)))
            if few:
                layer.register_forward_pre_hook(partial(_with_tokens, prompts[-1]))
                layer.register_forward_hook(partial(_without_tokens, self.tokens), prepend=True)
            else:
                layer.register_forward_hook(partial(_with_map, prompts[-1]), prepend=True)
        return prompts


def _layers(network: CLIP) -> list[nn.Module]:
    """Blocks of a transformer, stages of a ResNet."""
    if isinstance(network.visual, VisionTransformer):
        return list(network.visual.transformer.resblocks)
    return list(stages(network).values())


def _with_tokens(tokens: Tensor, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tokens (K, W) behind the class token of what a layer is given, (B, T, W)."""
    rows, *rest = given
    added = tokens.expand(len(rows), -1, -1)
    return torch.cat([rows[:, :1], added, rows[:, 1:]], dim=1), *rest


def _without_tokens(
    count: int, layer: nn.Module, given: tuple[Tensor, ...], rows: Tensor
) -> Tensor:
    """What a layer gives, (B, T, W), less the `count` behind the class token."""
    return torch.cat([rows[:, :1], rows[:, 1 + count :]], dim=1)


def _with_map(added: Tensor, layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
    """What a stage gives, (B, C, H, W), with the map (C, H, W) on it."""
    return made + added


def _feature(output: Tensor) -> Tensor:
    """The class token of (B, T, W), or the mean over places of (B, C, H, W)."""
    return output[:, 0] if output.dim() == 3 else output.mean(dim=(2, 3))


METHOD: type[Repair] = Rvpt
