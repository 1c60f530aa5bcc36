"""Train a nano CLIP from scratch on scenes of the bundled drawings, and pack it for the wheel.

    python tools/train_nano.py nano-rn --seed 0 --steps 1800 --until 1600 --work build/nano-rn \
        --pack clipguard/assets/nano-rn.safetensors

An ordinary open_clip `CLIP` with the ordinary BPE tokenizer; symmetric contrastive loss in
which pairs of the same concept are masked, because a second picture of one concept is no
negative. Resumable: run it again with the same arguments. Only token rows that occur in a
caption are stored; the others are regenerated at load (`clipguard.nano`).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from clipguard.bundled.artwork import Artwork, compose, load_artwork
from clipguard.bundled.nano import (
    CONFIGS,
    TEMPLATES,
    class_names,
    encode_captions,
    normalise,
    pack_nano,
)
from clipguard.lab.finetune import contrastive_loss

BATCH = {"nano-rn": 384, "nano-vit": 256}
PEAK_LR = 2e-3
WARMUP = 150


def captions(artwork: Artwork, concepts: Tensor, generator: torch.Generator) -> list[str]:
    picks = torch.rand(len(concepts), 2, generator=generator).tolist()
    return [
        TEMPLATES[int(t * len(TEMPLATES))].format(names[0] if n < 0.75 else names[1])
        for (t, n), names in zip(picks, (artwork.names[i] for i in concepts.tolist()), strict=True)
    ]


@torch.no_grad()
def accuracy(network: CLIP, tokenizer: object, *, held_out: bool, seed: int = 10**6) -> float:
    """Zero-shot top-1 on the bundled class list, eight fresh scenes of every drawing."""
    network.eval()
    artwork, names = load_artwork(held_out), class_names()
    text = network.encode_text(tokenizer([f"a photo of a {n}." for n in names]), normalize=True)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor(artwork.concepts(names))
    hits = []
    for style in range(len(artwork.styles)):
        for _ in range(8):
            images = compose(artwork.sprites[style, rows], side=64, generator=generator)
            image = network.encode_image(normalise(images), normalize=True)
            hits.append((image @ text.T).argmax(dim=1) == torch.arange(len(names)))
    network.train()
    return torch.cat(hits).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=sorted(BATCH))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--until", type=int, help="stop here, on the schedule of --steps")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pack", type=Path, help="where to write the packed model when done")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    network = CLIP(**CONFIGS[args.name]).to(memory_format=torch.channels_last)
    tokenizer = open_clip.SimpleTokenizer(context_length=network.context_length)
    decay = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98), fused=True)
    start, state = 0, args.work / "training.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    artwork, begun = load_artwork(), time.time()
    until = args.until or args.steps
    batch = BATCH[args.name]
    for step in range(start, until):
        ramp = min(1.0, (step + 1) / WARMUP)
        rate = PEAK_LR * ramp * (0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(args.seed * 10**7 + step)
        concepts = torch.randint(len(artwork.names), (batch,), generator=generator)
        styles = torch.randint(len(artwork.styles), (batch,), generator=generator)
        images = compose(artwork.sprites[styles, concepts], side=64, generator=generator)
        tokens = tokenizer(captions(artwork, concepts, generator))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = network.encode_image(normalise(images))
            text = encode_captions(network, tokens)
        image = functional.normalize(image.float(), dim=1)
        loss = contrastive_loss(image, text.float(), network.logit_scale.exp(), concepts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            network.logit_scale.clamp_(0, math.log(100))
        if (step + 1) % 200 == 0 or step + 1 == until:
            seen = accuracy(network, tokenizer, held_out=False)
            unseen = accuracy(network, tokenizer, held_out=True)
            row = {
                "step": step + 1,
                "loss": round(loss.item(), 4),
                "seen": seen,
                "held_out": unseen,
            }
            print(json.dumps(row | {"seconds": round(time.time() - begun)}), flush=True)
            torch.save(
                {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
                state,
            )
    if args.pack:
        vocabulary = sorted(
            {
                int(token)
                for names in artwork.names
                for name in names[:2]
                for token in tokenizer([t.format(name) for t in TEMPLATES]).flatten().tolist()
            }
        )
        pack_nano(network.state_dict(), vocabulary, args.name, args.seed, args.pack)


if __name__ == "__main__":
    main()
